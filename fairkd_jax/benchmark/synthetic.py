"""Sets of made-up content in the layout of a published one, for timing what reads them."""

import io
import pathlib
import zipfile

import numpy as np

from fairkd_jax.data.sets.celeba import ATTRIBUTES, PARTITIONS

DISTINCT = 256  # pictures that are drawn; others are copies, told apart by a comment in the file
WIDTH, HEIGHT = 178, 218


def write_celeba(folder: pathlib.Path, images: int, seed: int = 0) -> pathlib.Path:
    """`images` JPEGs of CelebA's shape and size, with its two lists, as it is distributed.

    A blond face is brighter, so that there is something to learn. Eight of ten are for training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(key=[seed, images]))
    drawn = [_picture(rng, blond) for blond in (False, True) for _ in range(DISTINCT // 2)]
    values = rng.random((images, len(ATTRIBUTES))) < 0.25
    male = rng.random(images) < 0.42
    blond = rng.random(images) < np.where(male, 0.02, 0.24)
    values[:, ATTRIBUTES.index("Male")] = male
    values[:, ATTRIBUTES.index("Blond_Hair")] = blond
    names = [f"{number:06d}.jpg" for number in range(1, images + 1)]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w", zipfile.ZIP_STORED) as archive:
        which = rng.integers(DISTINCT // 2, size=images) + blond * (DISTINCT // 2)
        for name, picture in zip(names, which):
            archive.writestr(f"img_align_celeba/{name}", _with_comment(drawn[picture], name))
    rows = [" ".join([n, *np.where(v, "1", "-1").tolist()]) for n, v in zip(names, values)]
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(images), " ".join(ATTRIBUTES), *rows, ""])
    )
    parts = np.searchsorted([0.8, 0.9], np.arange(images) / images, side="right")
    numbers = [PARTITIONS[("train", "val", "test")[part]] for part in parts]
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {number}\n" for name, number in zip(names, numbers))
    )
    return folder


def _picture(rng: np.random.Generator, bright: bool) -> bytes:
    """A JPEG of smooth colours with some grain, some 7 KB as those of CelebA are."""
    from PIL import Image

    coarse = rng.integers(80 * bright, 176 + 80 * bright, size=(14, 11, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grainy = np.clip(smooth + rng.normal(scale=7, size=smooth.shape), 0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(grainy).save(written, "JPEG", quality=75)
    return written.getvalue()


def _with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in a file of its own."""
    said = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(said) + 2).to_bytes(2, "big") + said + jpeg[2:]
