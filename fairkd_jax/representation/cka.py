"""Linear CKA (arXiv 1905.00414), biased and debiased, between layers of any width.

Three ways to the same ratio HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)):

    hsic(...).cka()             exact, from Gram matrices: O(n^2) memory a layer, any width, and all
                                pairs of layers of two nets in one product
    sum of hsic(batch) .cka()   minibatch CKA (arXiv 2010.15327): each term is an unbiased mean over
                                batches, whatever their size; the ratio is not that of all rows
    Moments                     exact for any number of rows, whatever the batches, from sums over
                                rows: O(D1 D2) memory and that of a batch's Gram matrices, one pair

Debiased means the unbiased HSIC of Song et al. (JMLR 2012, eq. 5), for which four rows are needed:
without it CKA tends to 1 as width / rows grows, for unrelated features too. It may be negative.
Rows with mask 0 change nothing, even if they hold NaN. CKA is NaN where it is undefined: where
features do not vary, or HSIC(X, X) is 0, up to rounding. Features are centred before they are
multiplied, so a large common offset costs no digits in float32, and scaled by powers of two, so
that their scale changes nothing, be it 1e-10 or 1e10.
"""

import functools
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
    known = mask is not None and not isinstance(mask, jax.core.Tracer)
    rows = np.count_nonzero(np.asarray(mask) > 0) if known else len(x)
    if rows < needed:
        raise ValueError(f"{rows} rows: CKA with debiased={debiased} needs at least {needed}")
    return hsic([x], [y], mask, debiased=debiased).cka()[0, 0]


@struct.dataclass
class HSIC:
    """Hilbert-Schmidt independence criterion between layers of two nets, L1 and L2 of them.

    `a + b` is that of both: over batches, `cka()` of the sum is minibatch CKA with every batch
    weighing the same; summing `a.by_pairs()` instead, a batch weighs as its number of pairs.
    """

    values: dict[str, Array]  # "cross" [L1, L2], "first" [L1], "second" [L2], of scaled features
    exponent: dict[str, Array]  # "first" int [L1], "second" int [L2]: see `_scaled`
    pairs: Array  # [], n (n - 3) debiased, (n - 1)^2 biased; 0 where there are too few rows

    @property
    def cross(self) -> Float[JaxArray, "L1 L2"]:
        """Of each layer of the first net with each of the second, in the units of the features."""
        return self._at(jax.tree.map(jnp.zeros_like, self.exponent))["cross"]

    @property
    def first(self) -> Float[JaxArray, "L1"]:
        """Of each layer of the first net with itself, likewise; infinite where too large."""
        return self._at(jax.tree.map(jnp.zeros_like, self.exponent))["first"]

    @property
    def second(self) -> Float[JaxArray, "L2"]:
        """Of each layer of the second net with itself, likewise."""
        return self._at(jax.tree.map(jnp.zeros_like, self.exponent))["second"]

    def __add__(self, other: "HSIC") -> "HSIC":
        exponent = jax.tree.map(jnp.maximum, self.exponent, other.exponent)
        values = jax.tree.map(jnp.add, self._at(exponent), other._at(exponent))
        return HSIC(values, exponent, self.pairs + other.pairs)

    def _at(self, exponent: dict[str, Array]) -> dict[str, Array]:
        """The values of features scaled by other exponents."""
        by = {k: self.exponent[k] - exponent[k] for k in exponent}
        power = {
            "cross": 2 * (by["first"][:, None] + by["second"][None, :]),
            "first": 4 * by["first"],
            "second": 4 * by["second"],
        }
        return jax.tree.map(jnp.ldexp, self.values, power)

    def by_pairs(self) -> "HSIC":
        """Weighed by the number of pairs: for batches of unequal size, less variance."""
        return self.replace(values=jax.tree.map(lambda x: x * self.pairs, self.values))

    def cka(self) -> Float[JaxArray, "L1 L2"]:
        """CKA of every pair of layers; NaN where it is undefined."""
        first, second = (
            jnp.sqrt(jnp.where(self.values[k] > 0, self.values[k], jnp.nan))
            for k in ("first", "second")
        )
        return self.values["cross"] / first[:, None] / second[None, :]


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
    batch adds nothing to a sum. Neither do features that do not vary.
    """
    mask = _as_mask(mask, first[0])
    n = jnp.sum(mask)
    pairs = jnp.where(n > 3, n * (n - 3), 0) if debiased else jnp.square(jnp.maximum(n - 1, 0))
    (x, x_exponent), (y, y_exponent) = (
        map(jnp.stack, zip(*(_gram(features, mask, debiased) for features in net)))
        for net in (first, second)
    )
    x, y = (jnp.where(pairs > 0, gram, 0) for gram in (x, y))
    scale = 1 / jnp.maximum(pairs, 1)
    values = {
        "cross": scale * _einsum("anm,bnm->ab", x, y),
        "first": scale * _einsum("anm,anm->a", x, x),
        "second": scale * _einsum("bnm,bnm->b", y, y),
    }
    return HSIC(values, {"first": x_exponent, "second": y_exponent}, pairs)


def _gram(x: Array, mask: Array, debiased: bool) -> tuple[Array, Array]:
    """(centred Gram matrix [n, n] of the rows with mask 1, 0 elsewhere; exponent of its features).

    Debiased: U-centred (Székely and Rizzo, arXiv 1310.2926), whose inner product is n (n - 3) times
    the unbiased HSIC and, unlike Song's sum, neither cancels nor makes a negative norm. What is no
    more than rounding is 0.
    """
    n, location = jnp.sum(mask), _location_of(x, mask)
    x, exponent = _scaled(_shift(x, mask, location))
    x = jnp.where(_varies(jnp.sum(x**2, axis=0), n, location, exponent), x, 0)
    gram = _einsum("nd,md->nm", x, x)
    if not debiased:
        return gram, exponent
    off_diagonal = mask[:, None] * mask[None, :] * (1 - jnp.eye(len(mask), dtype=mask.dtype))
    lengths = jnp.diag(gram)
    rounding = NOISE * jnp.finfo(gram.dtype).eps
    noise = rounding**2 * jnp.sum(lengths[:, None] * lengths[None, :] * off_diagonal)
    gram = gram * off_diagonal
    column = jnp.sum(gram, axis=0) / jnp.maximum(n - 2, 1)
    total = jnp.sum(column) / jnp.maximum(n - 1, 1)
    gram = (gram - column[:, None] - column[None, :] + total) * off_diagonal
    return jnp.where(jnp.sum(gram**2) <= noise, 0, gram), exponent


@struct.dataclass
class Moments:
    """Sums over rows from which linear CKA of one pair of layers follows exactly.

    They are those of features about their mean so far (Chan, Golub and LeVeque 1983), divided by a
    power of two, so that they lose no digits whatever batch comes first. `a + b` is that of both
    sets of rows.
    """

    location: dict[str, Array]  # "x" [D1], "y" [D2]
    exponent: dict[str, Array]  # "x", "y" []
    sums: dict[str, Array]

    @classmethod
    def start(
        cls,
        x: Float[Array, "n D1"],
        y: Float[Array, "n D2"],
        mask: Shaped[Array, "n"] | None = None,
    ) -> "Moments":
        """Of no rows, in the shapes of a batch; `update` it with that batch next."""
        shapes = jax.eval_shape(_moments, x, y, None)
        # made as such: of rows that a compiler knows to be 0, it multiplies the powers of two first
        none = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)
        return none.replace(exponent=jax.tree.map(lambda v: jnp.full_like(v, LEAST), none.exponent))

    def update(
        self,
        x: Float[Array, "n D1"],
        y: Float[Array, "n D2"],
        mask: Shaped[Array, "n"] | None = None,
    ) -> "Moments":
        """With the rows of a batch added."""
        return self + _moments(x, y, mask)

    @jax.jit
    def __add__(self, other: "Moments") -> "Moments":
        share = other.sums["n"] / jnp.maximum(self.sums["n"] + other.sums["n"], 1)
        location = jax.tree.map(lambda a, b: a + (b - a) * share, self.location, other.location)
        exponent = jax.tree.map(jnp.maximum, self.exponent, other.exponent)
        ours, theirs = self._at(location, exponent), other._at(location, exponent)
        sums = jax.tree.map(jnp.add, ours, theirs)
        for a, b in PAIRS:  # a row of ours with one of theirs, both ways
            sums[f"{a}{a}{b}{b}"] += 2 * jnp.sum(ours[f"{a}_{b}"] * theirs[f"{a}_{b}"])
        return Moments(location, exponent, sums)

    def _at(self, location: dict[str, Array], exponent: dict[str, Array]) -> dict[str, Array]:
        """The sums about another location, with other, larger exponents."""
        by = {k: self.exponent[k] - exponent[k] for k in exponent}
        sums = {
            name: jnp.ldexp(value, sum(name.count(k) * by[k] for k in by))
            for name, value in self.sums.items()
        }
        moved = {k: (self.location[k] - location[k]) * _power(-exponent[k], sums["n"]) for k in by}
        # an empty set has no location to move from
        return _moved(sums, {k: jnp.where(sums["n"] > 0, v, 0) for k, v in moved.items()})

    @functools.partial(jax.jit, static_argnames="debiased")
    def cka(self, *, debiased: bool = True) -> Float[JaxArray, ""]:
        """Linear CKA of all rows; NaN where it is undefined, also for too few rows.

        Feature form of both estimators. Biased: ||X'Y||^2. Unbiased, times n (n - 3): the sum over
        i != j of (x_i.x_j) (y_i.y_j) - 2 / (n - 2) sum_i |x_i|^2 |y_i|^2 + ||X||^2 ||Y||^2 /
        ((n - 1) (n - 2)), which is Song's estimator on centred features. One row 50 standard
        deviations out costs 3e-5 in float32 among 60 rows or 200, and nothing among 1000.
        """
        n = self.sums["n"]
        s = _moved(self.sums, {k: -self.sums[k] / jnp.maximum(n, 1) for k in ("x", "y")})

        def hsic_and_rounding(a: str, b: str) -> tuple[JaxArray, JaxArray]:
            if not debiased:
                return jnp.sum(s[f"{a}_{b}"] ** 2), jnp.zeros_like(n)
            product, fourth = s[f"{a}{a}{b}{b}"], s[f"{a}{a}_{b}{b}"]
            lengths = 2 / (n - 2) * fourth
            size = jnp.trace(s[f"{a}_{a}"]) * jnp.trace(s[f"{b}_{b}"]) / ((n - 1) * (n - 2))
            # all of an outlier's fourth power: the location that it moved was rounded
            rounding = NOISE * jnp.finfo(n.dtype).eps * (product + 2 * fourth + size)
            return product - lengths + size, rounding

        def norm(k: str) -> JaxArray:
            square, rounding = hsic_and_rounding(k, k)
            deviations = jnp.diag(s[f"{k}_{k}"])
            defined = _varies(deviations, n, self.location[k], self.exponent[k])
            return jnp.sqrt(jnp.where(defined & (square > rounding), square, jnp.nan))

        ratio = hsic_and_rounding("x", "y")[0] / norm("x") / norm("y")
        return jnp.where(n >= (4 if debiased else 2), ratio, jnp.nan)


@jax.jit
def _moments(x: Array, y: Array, mask: Array | None) -> Moments:
    """Those of one batch, about its own mean."""
    mask = _as_mask(mask, x)
    location = {"x": _location_of(x, mask), "y": _location_of(y, mask)}
    x, x_exponent = _scaled(_shift(x, mask, location["x"]))
    y, y_exponent = _scaled(_shift(y, mask, location["y"]))
    return Moments(location, {"x": x_exponent, "y": y_exponent}, _row_sums(x, y, mask))


PAIRS = (("x", "x"), ("x", "y"), ("y", "y"))


def _row_sums(x: Array, y: Array, mask: Array) -> dict[str, Array]:
    """By name: "x_yy" is the sum over rows of x |y|^2, "xxyy" that over pairs i != j of rows of
    (x_i.x_j) (y_i.y_j): taken from |X'Y|^2, a row with itself would cost the digits of an outlier's
    fourth power.
    """
    others = 1 - jnp.eye(len(x), dtype=x.dtype)
    gram = {k: others * _einsum("nd,md->nm", v, v) for k, v in (("x", x), ("y", y))}
    pairs = {f"{a}{a}{b}{b}": jnp.sum(gram[a] * gram[b]) for a, b in PAIRS}
    xx, yy = jnp.sum(x**2, axis=1), jnp.sum(y**2, axis=1)  # squared length of each row
    return pairs | {
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


def _moved(s: dict[str, Array], by: dict[str, Array]) -> dict[str, Array]:
    """The sums after each row moved by `by`: |x + d|^2 = |x|^2 + 2 d.x + d.d, multiplied out."""
    n, square = s["n"], {k: _dot(d, d) for k, d in by.items()}
    trace = {k: jnp.trace(s[f"{k}_{k}"]) for k in by}
    along = {k: _dot(d, s[k]) for k, d in by.items()}
    length = {k: trace[k] + 2 * along[k] + n * square[k] for k in by}  # sum of |x + d|^2
    moved = {"n": n} | {k: s[k] + n * d for k, d in by.items()}
    for a, b in PAIRS:
        outer = jnp.outer(s[a], by[b]) + jnp.outer(by[a], s[b]) + n * jnp.outer(by[a], by[b])
        moved[f"{a}_{b}"] = s[f"{a}_{b}"] + outer
        moved[f"{a}{a}_{b}{b}"] = (
            s[f"{a}{a}_{b}{b}"]
            + 2 * (_dot(by[a], s[f"{a}_{b}{b}"]) + _dot(by[b], s[f"{b}_{a}{a}"]))
            + 4 * _dot(_dot(by[a], s[f"{a}_{b}"]), by[b])
            + square[a] * (trace[b] + 2 * along[b])
            + square[b] * length[a]
        )
        moved[f"{a}{a}{b}{b}"] = (
            s[f"{a}{a}{b}{b}"]
            + 2 * _dot(_dot(s[a], s[f"{a}_{b}"]), by[b])
            + 2 * _dot(_dot(by[a], s[f"{a}_{b}"]), s[b])
            - 2 * (_dot(by[b], s[f"{b}_{a}{a}"]) + _dot(by[a], s[f"{a}_{b}{b}"]))
            + square[b] * (_dot(s[a], s[a]) - trace[a])
            + square[a] * (_dot(s[b], s[b]) - trace[b])
            + 2 * (n - 2) * _dot(_dot(by[a], s[f"{a}_{b}"]), by[b])
            + 2 * along[a] * along[b]
            + 2 * (n - 1) * (square[b] * along[a] + square[a] * along[b])
            + n * (n - 1) * square[a] * square[b]
        )
    for a, b, cross in (
        ("x", "x", s["x_x"]),
        ("x", "y", s["x_y"]),
        ("y", "x", s["x_y"].T),
        ("y", "y", s["y_y"]),
    ):
        moved[f"{a}_{b}{b}"] = (
            s[f"{a}_{b}{b}"] + 2 * _dot(cross, by[b]) + square[b] * s[a] + by[a] * length[b]
        )
    return moved


def _as_mask(mask: Array | None, x: Array) -> Array:
    """1 for rows that count, 0 for others, float32 at least."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.ones(len(x), dtype) if mask is None else jnp.asarray(mask > 0, dtype)


def _location_of(x: Array, mask: Array) -> Array:
    """Mean of the rows with mask 1, 0 without any; of constant columns exactly their value."""
    if not len(x):
        return jnp.zeros(x.shape[1:], mask.dtype)
    row = jnp.where(jnp.any(mask > 0), x[jnp.argmax(mask)].astype(mask.dtype), 0)
    return row + jnp.sum(_shift(x, mask, row), axis=0) / jnp.maximum(jnp.sum(mask), 1)


def _shift(x: Array, mask: Array, location: Array) -> Array:
    """Rows with mask 1 less a location, 0 elsewhere."""
    return jnp.where(mask[:, None] > 0, x.astype(mask.dtype) - location, 0)


STEP = 16  # of exponents: features of ordinary size are left as they are
LEAST = -112  # of float32 there is nothing below 2^-126; also the exponent of what is all 0
NOISE = 16  # roundings, in units of the last place, that a sum of one sign may have gathered


def _scaled(x: Array) -> tuple[Array, Array]:
    """(x / 2^exponent, exponent): fourth powers of what is left neither overflow nor vanish."""
    largest = jnp.max(jnp.abs(x), initial=0)
    exponent = STEP * ((jnp.frexp(largest)[1] + STEP // 2) // STEP)
    exponent = jnp.where(largest > 0, jnp.clip(exponent, LEAST, -LEAST), LEAST)
    return x * _power(-exponent, x), exponent


def _power(exponent: Array, like: Array) -> Array:
    return jnp.ldexp(jnp.ones((), like.dtype), exponent)


def _varies(square: Array, n: Array, location: Array, exponent: Array) -> Array:
    """Does any column vary by more than the rounding of its own location?

    `square` [D] are sums of squares of n scaled deviations. NaN counts as varying: it shows.
    """
    rounding = 2 * jnp.finfo(square.dtype).eps * location * _power(-exponent, square)
    return ~jnp.all(square <= n * rounding**2)
