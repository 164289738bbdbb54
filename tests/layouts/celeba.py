"""CelebA as its authors distribute it, with a few generated images."""

from fairkd_jax.benchmark.synthetic import write_celeba as synthetic


def write(folder):
    """`img_align_celeba.zip` and its two lists."""
    synthetic(folder, 60)
