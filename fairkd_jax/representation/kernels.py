"""Matrices over all pairs of examples, masked, and what measures of similarity take from them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int

from fairkd_jax.representation.cka import (
    NOISE,
    _einsum,
    _location_of,
    _scaled,
    _shift,
    _varies,
)
from fairkd_jax.types import Array


def centred(x: Float[Array, "n D"], mask: Float[Array, "n"]) -> Float[JaxArray, "n D"]:
    """Features about their mean, divided by a power of two, 0 where masked or where all is equal.

    So neither a common offset nor the scale of features costs digits of what is made of them.
    """
    location = _location_of(x, mask)
    x, exponent = _scaled(_shift(x, mask, location))
    varies = _varies(jnp.sum(x**2, axis=0), jnp.sum(mask), location, exponent)
    return jnp.where(varies, x, 0)


def varies(x: Float[Array, "n D"], mask: Float[Array, "n"]) -> Bool[JaxArray, ""]:
    """Does any feature differ between examples by more than rounding? So does one that is NaN."""
    return jnp.any(centred(x, mask) != 0)


def products(x: Float[Array, "n D"]) -> Float[JaxArray, "n n"]:
    """Inner products of all pairs of rows, in full precision."""
    return _einsum("nd,md->nm", x, x)


def squared_distances(x: Float[Array, "n D"]) -> Float[JaxArray, "n n"]:
    """Of all pairs of rows; 0 on the diagonal, never negative."""
    gram = products(x)
    lengths = jnp.diag(gram)
    found = jnp.maximum(lengths[:, None] + lengths[None, :] - 2 * gram, 0)
    return jnp.where(jnp.eye(len(x), dtype=bool), 0, found)


def both(mask: Float[Array, "n"], *, diagonal: bool = True) -> Float[JaxArray, "n n"]:
    """1 where both of a pair of rows have mask 1; `diagonal`: a row with itself too."""
    pairs = mask[:, None] * mask[None, :]
    return pairs if diagonal else pairs * (1 - jnp.eye(len(mask), dtype=mask.dtype))


def doubly_centred(
    gram: Float[Array, "n n"], mask: Float[Array, "n"], *, debiased: bool
) -> Float[JaxArray, "n n"]:
    """A symmetric matrix centred over the rows and columns with mask 1, 0 elsewhere.

    Debiased: U-centred (Székely and Rizzo, arXiv 1310.2926). What is no more than rounding is 0.
    """
    n = jnp.sum(mask)
    pairs = both(mask, diagonal=not debiased)
    lengths = jnp.abs(jnp.diag(gram)) * mask
    rounding = NOISE * jnp.finfo(gram.dtype).eps
    noise = rounding**2 * jnp.sum(lengths[:, None] * lengths[None, :] * pairs)
    gram = jnp.where(pairs > 0, gram, 0)
    less = (2, 1) if debiased else (0, 0)
    column = jnp.sum(gram, axis=0) / jnp.maximum(n - less[0], 1)
    total = jnp.sum(column) / jnp.maximum(n - less[1], 1)
    gram = (gram - column[:, None] - column[None, :] + total) * pairs
    return jnp.where(jnp.sum(gram**2) <= noise, 0, gram)


def unit(matrix: Float[Array, "n n"]) -> Float[JaxArray, "n n"]:
    """Divided by its Frobenius norm; NaN where that is 0."""
    square = jnp.sum(matrix**2)
    return matrix / jnp.sqrt(jnp.where(square > 0, square, jnp.nan))


def inner(a: Float[Array, "n n"], b: Float[Array, "n n"]) -> Float[JaxArray, ""]:
    """The sum of products of entries."""
    return _einsum("nm,nm->", a, b)


def median(values: Float[Array, "n n"], mask: Float[Array, "n"]) -> Float[JaxArray, ""]:
    """Of all entries between rows with mask 1, the diagonal among them."""
    flat = jnp.sort(jnp.where(both(mask) > 0, values, jnp.inf).ravel())  # NaN is last
    count = jnp.square(jnp.sum(mask)).astype(jnp.int32)
    middle = (flat[jnp.maximum((count - 1) // 2, 0)] + flat[count // 2]) / 2
    return jnp.where(jnp.any(jnp.isnan(flat)), jnp.nan, middle)


def ranks(values: Float[Array, "N"], there: Bool[Array, "N"]) -> Float[JaxArray, "N"]:
    """Ranks from 1 among the values that are there, equal ones sharing their mean; 0 elsewhere."""
    ordered = jnp.sort(jnp.where(there, values, jnp.inf))
    low, high = (
        jnp.searchsorted(ordered, values, side=s, method="sort") for s in ("left", "right")
    )
    return jnp.where(there, (low + high + 1) / 2, 0).astype(values.dtype)


def likeness(
    x: Float[Array, "n D"], mask: Float[Array, "n"], *, cosine: bool
) -> tuple[Float[JaxArray, "n n"], Int[JaxArray, ""]]:
    """(inner products of features as they are, not centred; the exponent of the features).

    Features are divided by that power of two, so that their scale changes nothing; where `cosine`
    rows have length 1 and the exponent is 0. NaN for a row of length 0 that is to have length 1,
    and everywhere where features do not vary.
    """
    known = varies(x, mask)
    x, exponent = _scaled(jnp.where(mask[:, None] > 0, x.astype(mask.dtype), 0))
    if cosine:
        length = jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True))
        x = x / jnp.where(length > 0, length, jnp.where(mask[:, None] > 0, jnp.nan, 1))
        exponent = jnp.zeros_like(exponent)
    return jnp.where(known, products(x), jnp.nan), exponent


def nearest(
    like: Float[Array, "n n"], mask: Float[Array, "n"], k: int, *, itself: bool = False
) -> Float[JaxArray, "n n"]:
    """1 where the column is one of the `k` most like the row; `itself`: a row may be its own.

    NaN where that cannot be said: likeness is NaN somewhere, fewer than k others are there, or for
    no row does the k-th differ from the next, as of one feature by its cosine.
    """
    n, size = jnp.sum(mask), len(mask)
    known = both(mask, diagonal=itself) > 0
    masked = jnp.where(known, like, -jnp.inf)
    found, at = jax.lax.top_k(masked, min(k + 1, size))
    near = jnp.zeros_like(like).at[jnp.arange(size)[:, None], at[:, :k]].set(1) * mask[:, None]
    tied = (found[:, k - 1] == found[:, k]) if k < size else jnp.zeros(size, bool)
    enough = n - (not itself) >= k
    broken = jnp.any(jnp.isnan(like) & known) | ~enough | jnp.all(tied | (mask == 0))
    return jnp.where(broken, jnp.nan, near)


def hsic_of(
    k: Float[Array, "n n"], m: Float[Array, "n n"], mask: Float[Array, "n"], *, unbiased: bool
) -> Float[JaxArray, ""]:
    """HSIC of two matrices that need not be symmetric, over the rows and columns with mask 1.

    Unbiased: Song et al. (JMLR 2012, eq. 5). Biased: the trace of K H L H.
    """
    n, pairs = jnp.sum(mask), both(mask, diagonal=not unbiased)
    k, m = (jnp.where(pairs > 0, z, 0) for z in (k, m))
    product = jnp.sum(k * m.T)
    lines = jnp.sum(jnp.sum(k, axis=0) * jnp.sum(m, axis=1))
    if unbiased:
        whole = jnp.sum(k) * jnp.sum(m) / ((n - 1) * (n - 2))
        return (product + whole - 2 / (n - 2) * lines) / (n * (n - 3))
    other = jnp.sum(jnp.sum(k, axis=1) * jnp.sum(m, axis=0))
    return product - (lines + other) / n + jnp.sum(k) * jnp.sum(m) / n**2
