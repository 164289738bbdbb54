"""Linear CKA (arXiv 1905.00414), biased and debiased, between layers of any width.

Three ways to the same ratio HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)):

    hsic(...).cka()             exact, from Gram matrices: O(n^2) memory a layer, any width, and all
                                pairs of layers of two nets in one product
    sum of hsic(batch) .cka()   minibatch CKA (arXiv 2010.15327): each term is an unbiased mean over
                                batches, whatever their size; the ratio is not that of all rows
    Moments                     exact for any number of rows, whatever the batches, from sums over
                                rows: O(D1 D2) memory, one pair of layers

Debiased means the unbiased HSIC of Song et al. (JMLR 2012, eq. 5), for which four rows are needed:
without it CKA tends to 1 as width / rows grows, for unrelated features too. It may be negative.
Rows with mask 0 change nothing, even if they hold NaN. Constant features give NaN. Features are
centred before they are multiplied, so a large common offset costs no digits in float32.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Shaped

from fairkd_jax.types import Array

# without "highest", accelerators multiply in bfloat16 or tf32
_einsum = functools.partial(jnp.einsum, precision="highest")
_dot = functools.partial(jnp.dot, precision="highest")


def linear_cka(
    x: Float[Array, "n D1"],
    y: Float[Array, "n D2"],
    mask: Shaped[Array, "n"] | None = None,
    *,
    debiased: bool = True,
) -> Float[JaxArray, ""]:
    """CKA of two layers' features on the same rows, exact.

    Raises ValueError for fewer rows than the estimator is defined for (NaN where the mask is
    traced): 4 debiased, 2 biased.
    """
    needed = 4 if debiased else 2
    rows = len(x) if mask is None or isinstance(mask, jax.core.Tracer) else np.count_nonzero(mask)
    if rows < needed:
        raise ValueError(f"{rows} rows: CKA with debiased={debiased} needs at least {needed}")
    return hsic([x], [y], mask, debiased=debiased).cka()[0, 0]


@struct.dataclass
class HSIC:
    """Hilbert-Schmidt independence criterion between layers of two nets, L1 and L2 of them.

    `a + b` sums all fields: over batches, `cka()` of the sum is minibatch CKA with every batch
    weighing the same; summing `a.by_pairs()` instead, a batch weighs as its number of pairs.
    """

    cross: Array  # [L1, L2]
    first: Array  # [L1], of each layer of the first net with itself
    second: Array  # [L2]
    pairs: Array  # [], n (n - 3) debiased, (n - 1)^2 biased; 0 where there are too few rows

    def __add__(self, other: "HSIC") -> "HSIC":
        return jax.tree.map(operator.add, self, other)

    def by_pairs(self) -> "HSIC":
        """Weighed by the number of pairs: for batches of unequal size, less variance."""
        weighed = jax.tree.map(lambda x: x * self.pairs, self)
        return weighed.replace(pairs=self.pairs)

    def cka(self) -> Float[JaxArray, "L1 L2"]:
        """CKA of every pair of layers."""
        return self.cross / (jnp.sqrt(self.first)[:, None] * jnp.sqrt(self.second)[None, :])


@functools.partial(jax.jit, static_argnames="debiased")
def hsic(
    first: Sequence[Float[Array, "n _"]],
    second: Sequence[Float[Array, "n _"]],
    mask: Shaped[Array, "n"] | None = None,
    *,
    debiased: bool = True,
) -> HSIC:
    """HSIC with a linear kernel between every layer of one net and every layer of another.

    The features of all layers are of the same n rows. Too few rows give 0 and no pairs: a short
    batch adds nothing to a sum.
    """
    mask = _as_mask(mask, first[0])
    n = jnp.sum(mask)
    pairs = jnp.where(n > 3, n * (n - 3), 0) if debiased else jnp.square(jnp.maximum(n - 1, 0))
    x = jnp.stack([_gram(features, mask, debiased) for features in first])
    y = jnp.stack([_gram(features, mask, debiased) for features in second])
    scale = jnp.where(pairs > 0, 1 / jnp.maximum(pairs, 1), 0)
    return HSIC(
        cross=scale * _einsum("anm,bnm->ab", x, y),
        first=scale * _einsum("anm,anm->a", x, x),
        second=scale * _einsum("bnm,bnm->b", y, y),
        pairs=pairs,
    )


def _gram(x: Array, mask: Array, debiased: bool) -> Array:
    """Centred Gram matrix [n, n] of the rows with mask 1, 0 elsewhere.

    Debiased: U-centred (Székely and Rizzo, arXiv 1310.2926), whose inner product is n (n - 3) times
    the unbiased HSIC and, unlike Song's sum, neither cancels nor makes a negative norm.
    """
    x = _shift(x, mask, _location(x, mask))
    gram = _einsum("nd,md->nm", x, x)
    if not debiased:
        return gram
    n = jnp.sum(mask)
    off_diagonal = mask[:, None] * mask[None, :] * (1 - jnp.eye(len(mask), dtype=mask.dtype))
    gram = gram * off_diagonal
    column = jnp.sum(gram, axis=0) / jnp.maximum(n - 2, 1)
    total = jnp.sum(column) / jnp.maximum(n - 1, 1)
    return (gram - column[:, None] - column[None, :] + total) * off_diagonal


@struct.dataclass
class Moments:
    """Sums over rows from which linear CKA of one pair of layers follows exactly.

    Features are shifted and scaled by a reference taken from the first batch, so that the sums lose
    no digits. `a + b` is that of both sets of rows, for accumulators of one `start`.
    """

    reference: dict[str, Array]  # "x" [D1], "y" [D2], "x_scale" [], "y_scale" []: not summed
    sums: dict[str, Array]

    @classmethod
    def start(
        cls,
        x: Float[Array, "n D1"],
        y: Float[Array, "n D2"],
        mask: Shaped[Array, "n"] | None = None,
    ) -> "Moments":
        """An empty accumulator with the reference of a batch; `update` it with that batch next."""
        return cls(*_start(x, y, mask))

    @jax.jit
    def update(
        self,
        x: Float[Array, "n D1"],
        y: Float[Array, "n D2"],
        mask: Shaped[Array, "n"] | None = None,
    ) -> "Moments":
        """With the rows of a batch added."""
        mask, at = _as_mask(mask, x), self.reference
        x = _shift(x, mask, at["x"]) / at["x_scale"]
        y = _shift(y, mask, at["y"]) / at["y_scale"]
        added = jax.tree.map(operator.add, self.sums, _row_sums(x, y, mask))
        return self.replace(sums=added)

    def __add__(self, other: "Moments") -> "Moments":
        return self.replace(sums=jax.tree.map(operator.add, self.sums, other.sums))

    def cka(self, *, debiased: bool = True) -> Float[JaxArray, ""]:
        """Linear CKA of all rows; NaN for fewer rows than the estimator is defined for."""
        return _ratio_of_moments(self.sums, debiased=debiased)


@jax.jit
def _start(x: Array, y: Array, mask: Array | None) -> tuple[dict, dict]:
    """(reference, sums of no rows)."""
    mask = _as_mask(mask, x)
    x_at, y_at = _location(x, mask), _location(y, mask)
    x, y = _shift(x, mask, x_at), _shift(y, mask, y_at)
    reference = {"x": x_at, "y": y_at, "x_scale": _size(x), "y_scale": _size(y)}
    return reference, jax.tree.map(jnp.zeros_like, _row_sums(x, y, mask))


def _row_sums(x: Array, y: Array, mask: Array) -> dict[str, Array]:
    xx, yy = jnp.sum(x**2, axis=1), jnp.sum(y**2, axis=1)  # squared length of each row
    return {
        "n": jnp.sum(mask),
        "x": jnp.sum(x, axis=0),
        "y": jnp.sum(y, axis=0),
        "x_x": _einsum("na,nb->ab", x, x),
        "x_y": _einsum("na,nb->ab", x, y),
        "y_y": _einsum("na,nb->ab", y, y),
        "x_xx": _einsum("na,n->a", x, xx),
        "x_yy": _einsum("na,n->a", x, yy),
        "y_xx": _einsum("na,n->a", y, xx),
        "y_yy": _einsum("na,n->a", y, yy),
        "xx_xx": jnp.sum(xx * xx),
        "xx_yy": jnp.sum(xx * yy),
        "yy_yy": jnp.sum(yy * yy),
    }


@functools.partial(jax.jit, static_argnames="debiased")
def _ratio_of_moments(s: dict[str, JaxArray], *, debiased: bool) -> JaxArray:
    """Feature form of both estimators, on features centred through their moments.

    Biased: ||X'Y||^2. Unbiased, times n (n - 3): ||X'Y||^2 - n / (n - 2) sum_i |x_i|^2 |y_i|^2 +
    ||X||^2 ||Y||^2 / ((n - 1) (n - 2)), which is Song's estimator on centred features.
    """
    n = s["n"]
    mean = {"x": s["x"] / n, "y": s["y"] / n}

    def term(a: str, b: str) -> JaxArray:
        mean_a, mean_b = mean[a], mean[b]
        aa, bb, ab = f"{a}{a}", f"{b}{b}", f"{a}_{b}"
        product = jnp.sum((s[ab] - n * jnp.outer(mean_a, mean_b)) ** 2)
        if not debiased:
            return product
        # sum_i |a_i - mean|^2 |b_i - mean|^2, with |a_i - mean|^2 = aa_i - 2 a_i.mean + mean.mean
        square_a, square_b = _dot(mean_a, mean_a), _dot(mean_b, mean_b)
        sum_aa, sum_bb = jnp.trace(s[f"{a}_{a}"]), jnp.trace(s[f"{b}_{b}"])
        lengths = (
            s[f"{aa}_{bb}"]
            - 2 * (_dot(s[f"{a}_{bb}"], mean_a) + _dot(s[f"{b}_{aa}"], mean_b))
            + 4 * _dot(_dot(mean_a, s[ab]), mean_b)
            + square_a * (sum_bb - 2 * n * square_b)
            + square_b * (sum_aa - 2 * n * square_a)
            + n * square_a * square_b
        )
        size = (sum_aa - n * square_a) * (sum_bb - n * square_b)
        return product - n / (n - 2) * lengths + size / ((n - 1) * (n - 2))

    ratio = term("x", "y") / (jnp.sqrt(term("x", "x")) * jnp.sqrt(term("y", "y")))
    return jnp.where(n >= (4 if debiased else 2), ratio, jnp.nan)


def _as_mask(mask: Array | None, x: Array) -> Array:
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.ones(len(x), dtype) if mask is None else jnp.asarray(mask > 0, dtype)


def _location(x: Array, mask: Array) -> Array:
    """Mean of the rows with mask 1; of constant columns exactly their value."""
    row = x[jnp.argmax(mask)].astype(mask.dtype)
    return row + jnp.sum(_shift(x, mask, row), axis=0) / jnp.maximum(jnp.sum(mask), 1)


def _shift(x: Array, mask: Array, location: Array) -> Array:
    return jnp.where(mask[:, None] > 0, x.astype(mask.dtype) - location, 0)


def _size(x: Array) -> Array:
    """Largest magnitude, 1 where all are 0."""
    largest = jnp.max(jnp.abs(x))
    return jnp.where(largest > 0, largest, 1)
