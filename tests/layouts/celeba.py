"""CelebA as its authors distribute it, with a few generated images."""

from fairkd_jax.benchmark.synthetic import write_celeba


def write(folder):
    """`img_align_celeba.zip` and its two lists."""
    write_celeba(folder, 60)
