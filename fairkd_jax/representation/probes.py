"""How well label and attribute can be read from each layer of a net, by linear probes.

A probe is multinomial logistic regression on one layer's pooled features, standardised (over all
examples that are read, without their labels); classes weigh the same, and half the squared weights
are added to the summed loss: `LogisticRegression(class_weight="balanced")` of scikit-learn. It is
scored on examples that it was not fitted to, K folds in turn, by its recall averaged over classes,
so that a guess reaches 1 / C.

Two numbers stand beside it. `control`: the same probe on a control task (Hewitt and Liang, arXiv
1909.03368), whose labels mean nothing and which only a probe that memorises can do; accuracy less
control is its selectivity. Their types are words; here a type is one of 64 cells that inputs of a
view fall into: every token (or every pixel and channel) is given 6 random numbers, those of an
example's tokens are added up (those of pixels weighed by these), and the signs of the 6 sums about
their medians name the cell. A cell has a random class, as many cells each as nearly as can be. So
the label is a function of the input alone, the same for pairs of sentences with the same words, and
for equal images.
`by_other`: what is reached by one who knows the other of label and attribute and nothing else.

Intervals are over examples, of the probes as they were fitted.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int

from fairkd_jax.data.device import decoded_view
from fairkd_jax.representation.collect import Reader, join, read
from fairkd_jax.representation.kinds import BLOCKS, Chosen, Jackknifed, jackknife
from fairkd_jax.sharding import replicated_like
from fairkd_jax.types import Array, Batch

BITS = 6  # a control task has 2^6 types
CODES = 4096  # tokens share random numbers beyond so many
STEPS = 100  # of L-BFGS at most; a few tens are usual
ENOUGH = 1e-4  # length of the gradient of the mean loss at which it stops


def probe(
    reader: Reader,
    batches: Iterable[Batch],
    *,
    aligned: Bool[np.ndarray, "Y A"],
    examples: int,
    folds: int = 5,
    seed: int = 0,
    pool: str = "mean",
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, Any]:
    """Accuracy of probes for label and attribute on each tap of a net.

    `aligned` says for each label and attribute whether the shortcut is right; the first `examples`
    of each kind are read, so that neither tells much of the other. Returned:

    layers, n_aligned, n_conflicting, folds
    label, attribute    classes: those with an example for each fold, others are left out; chance;
                        by_other; accuracy, control, selectivity: each float [L] value, low, high;
                        undefined: the reason why they are NaN, or ""

    Raises ValueError for fewer than 2 folds or examples than folds, and what `read` raises.
    """
    check(examples, folds)
    aligned = np.asarray(aligned)
    chosen, parts = Chosen(aligned.reshape(-1), examples), []
    for batch in batches:
        batch = put(batch)
        (features,), rows = next(read([reader], [batch], pool=pool))
        votes = jax.device_get(_votes_step(reader[0].view, seed, replicated_like(batch))(batch))
        votes = votes["votes"][votes["real"] > 0]
        kind, _ = chosen.take(rows["group"], np.ones(len(votes), bool))
        taken = kind >= 0
        columns = {"group": rows["group"], "votes": votes}
        parts.append([{k: x[taken] for k, x in found.items()} for found in (features, columns)])
        if chosen.full:
            break
    features, columns = (join(part) for part in zip(*parts))
    random = np.random.default_rng(seed)
    group, types = columns["group"], _types(columns["votes"])
    fold = _folds(group, folds, random)
    told: dict[str, Any] = {"layers": [*features], "folds": folds}
    told |= {f"n_{kind}": n for kind, n in chosen.counts.items()}
    label, attribute = np.divmod(group, aligned.shape[1])
    for name, own, other in (("label", label, attribute), ("attribute", attribute, label)):
        told[name] = _probed(features, own, other, types, fold, random)
    return told


def check(examples: int, folds: int) -> None:
    """Raises ValueError for a number of folds that cannot be."""
    if not 2 <= folds <= examples:
        raise ValueError(f"probe: folds = {folds}, expected from 2 to examples = {examples}")


def _probed(
    features: Mapping[str, Float[np.ndarray, "N _"]],
    own: Int[np.ndarray, "N"],
    other: Int[np.ndarray, "N"],
    types: Int[np.ndarray, "N"],
    fold: Int[np.ndarray, "N"],
    random: np.random.Generator,
) -> dict[str, Any]:
    folds, sizes = fold.max(initial=0) + 1, np.bincount(own)
    classes = np.flatnonzero(sizes >= folds)
    cells = random.permutation(2**BITS) % max(len(classes), 1)
    told: dict[str, Any] = {"classes": classes, "undefined": ""}
    if len(classes) < 2:
        told["undefined"] = (
            f"{len(classes)} of the classes have an example for each of {folds} folds: "
            f"examples by class are {sizes.tolist()}"
        )
        told |= {"chance": np.nan, "by_other": np.nan}
        return told | dict.fromkeys(TOLD, _nothing(len(features)))
    at = np.flatnonzero(np.isin(own, classes))
    tasks = np.stack([np.searchsorted(classes, own[at]), cells[types[at]]])
    told |= {"chance": 1 / len(classes), "by_other": _by_other(tasks[0], other[at])}
    hits = np.zeros((2, len(features), len(at)), bool)
    names = [*features]
    for width in dict.fromkeys(x.shape[1] for x in features.values()):
        same = [i for i, name in enumerate(names) if features[name].shape[1] == width]
        x = np.stack([_standard(features[names[i]][at]) for i in same])
        values = jax.device_put((x, tasks.astype(np.int32), fold[at].astype(np.int32)))
        guesses = jax.device_get(predictions(*values, classes=len(classes), folds=int(folds)))
        hits[:, same] = np.moveaxis(guesses, 0, 1) == tasks[:, None]
    block = np.arange(len(at)) % BLOCKS
    sums = {}
    for task, name in zip(range(2), ("accuracy", "control")):
        told_of = (tasks[task][:, None] == np.arange(len(classes))).astype(float)
        of_block = (block[:, None] == np.arange(BLOCKS)).astype(float)
        sums[name] = np.einsum("nk,nc,ln->klc", of_block, told_of, hits[task])
        sums[f"{name} n"] = np.einsum("nk,nc->kc", of_block, told_of)[:, None]

    def recall(s: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        return np.nanmean(s[name] / np.where(s[f"{name} n"], s[f"{name} n"], np.nan), axis=-1)

    found = {
        "accuracy": lambda s: recall(s, "accuracy"),
        "control": lambda s: recall(s, "control"),
        "selectivity": lambda s: recall(s, "accuracy") - recall(s, "control"),
    }
    filled = min(BLOCKS, len(at))
    told |= {name: jackknife(found[name], sums, filled).told() for name in TOLD}
    if len({*tasks[1].tolist()}) < 2:
        told["undefined"] = "control and selectivity: all inputs fall into cells of one class"
        told |= dict.fromkeys(("control", "selectivity"), _nothing(len(features)))
    return told


TOLD = ("accuracy", "control", "selectivity")


def _nothing(layers: int) -> dict[str, Any]:
    return Jackknifed(np.full(layers, np.nan), np.full(layers, np.nan), 0).told()


def _by_other(own: Int[np.ndarray, "N"], other: Int[np.ndarray, "N"]) -> float:
    """The best recall, averaged over classes, of a guess that knows the other alone."""
    counts = np.zeros((other.max() + 1, own.max() + 1))
    np.add.at(counts, (other, own), 1)
    return float(np.max(counts / counts.sum(axis=0), axis=1).sum() / counts.shape[1])


def _standard(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Each column about its mean, by its standard deviation; 0 where it does not vary."""
    x = x.astype(np.float64) - x[:1]
    x, spread = x - x.mean(axis=0), x.std(axis=0)
    return np.where(spread > 0, x / np.where(spread > 0, spread, 1), 0).astype(np.float32)


def _folds(
    group: Int[np.ndarray, "N"], folds: int, random: np.random.Generator
) -> Int[np.ndarray, "N"]:
    """A fold for each example; those of a group are spread evenly."""
    order = random.permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    fold = np.empty(len(group), int)
    fold[order] = np.arange(len(group)) % folds
    return fold


def _types(votes: Float[np.ndarray, "N b"]) -> Int[np.ndarray, "N"]:
    """The cell of each example, 0 to 2^b - 1."""
    return (votes > np.median(votes, axis=0)) @ (1 << np.arange(votes.shape[1]))


@functools.lru_cache(maxsize=128)
def _votes_step(view: str, seed: int, out: Sharding | None) -> Callable:
    def step(batch: Batch) -> dict[str, JaxArray]:
        votes = votes_of(decoded_view(batch["views"][view]), seed)
        return {"votes": votes, "real": batch["real"]}

    return jax.jit(step, out_shardings=out)


def votes_of(inputs: Mapping[str, Array], seed: int) -> Float[JaxArray, "B b"]:
    """Random numbers of an input's tokens and pixels, added up; padding adds nothing."""
    mask, total = inputs.get("mask"), 0.0
    for i, name in enumerate(sorted({*inputs} - {"mask"})):
        x, key = jnp.asarray(inputs[name]), jax.random.fold_in(jax.random.key(seed), i)
        if jnp.issubdtype(x.dtype, jnp.integer):
            own = jax.random.normal(key, (CODES, BITS))[x % CODES]
            if mask is not None and mask.shape == x.shape:
                own = jnp.where((mask > 0)[..., None], own, 0)
            total += jnp.sum(own, axis=tuple(range(1, own.ndim - 1)))
        else:
            weights = jax.random.normal(key, (x[0].size, BITS))
            total += jnp.matmul(x.reshape(len(x), -1), weights, precision="highest")
    return total


@functools.partial(jax.jit, static_argnames=("classes", "folds"))
def predictions(
    features: Float[Array, "L N D"],
    tasks: Int[Array, "R N"],
    fold: Int[Array, "N"],
    *,
    classes: int,
    folds: int,
) -> Int[JaxArray, "L R N"]:
    """The class of each example by the probe that was fitted to the other folds."""

    def held_out(x: JaxArray, y: JaxArray, k: JaxArray) -> JaxArray:
        weights, bias = _fit(x, jax.nn.one_hot(y, classes), (fold != k).astype(x.dtype))
        return jnp.argmax(jnp.dot(x, weights, precision="highest") + bias, axis=1)

    over_folds = jax.vmap(held_out, (None, None, 0))
    over_tasks = jax.vmap(over_folds, (None, 0, None))
    guesses = jax.vmap(over_tasks, (0, None, None))(features, tasks, jnp.arange(folds))
    return jnp.take_along_axis(guesses, fold[None, None, None], axis=2)[:, :, 0]


def _fit(
    x: Float[JaxArray, "N D"], y: Float[JaxArray, "N C"], fits: Float[JaxArray, "N"]
) -> tuple[Float[JaxArray, "D C"], Float[JaxArray, "C"]]:
    """Weights and bias, by L-BFGS, of the examples where `fits` is 1."""
    n, counts = jnp.sum(fits), jnp.sum(fits[:, None] * y, axis=0)
    there = jnp.sum(counts > 0)  # a control task may lack a class
    weigh = fits * jnp.sum(y * n / jnp.maximum(counts * there, 1), axis=1)

    def loss(params: tuple[JaxArray, JaxArray]) -> JaxArray:
        weights, bias = params
        logits = jnp.dot(x, weights, precision="highest") + bias
        losses = optax.softmax_cross_entropy(logits, y)
        return (jnp.sum(weigh * losses) + jnp.sum(weights**2) / 2) / n

    # the loss is convex, so Wolfe's second condition, which costs evaluations, is not needed
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=15, store_grad=True)
    solver, value_and_grad = optax.lbfgs(linesearch=search), optax.value_and_grad_from_state(loss)

    def goes_on(carry: tuple) -> JaxArray:
        step, _, _, length = carry
        return (step < STEPS) & (length > ENOUGH)

    def go(carry: tuple) -> tuple:
        step, params, state, _ = carry
        value, grad = value_and_grad(params, state=state)
        length = optax.tree.norm(grad)
        told = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = solver.update(grad, state, params, **told)
        return step + 1, optax.apply_updates(params, updates), state, length

    params = jnp.zeros((x.shape[1], y.shape[1])), jnp.zeros(y.shape[1])
    start = 0, params, solver.init(params), jnp.inf
    return jax.lax.while_loop(goes_on, go, start)[1]
