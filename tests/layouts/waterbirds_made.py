"""CUB-200-2011 and its segmentations as .tgz, and folders of Places, with generated images."""

import io
import tarfile

import numpy as np
from PIL import Image

PLACES = ("b/bamboo_forest", "f/forest/broadleaf", "o/ocean", "l/lake/natural")


def write(folder, birds=20):
    """`CUB_200_2011.tgz`, `segmentations.tgz` and `data_large`; half of the birds are of water."""
    rng = np.random.default_rng(0)
    species = ("001.Black_footed_Albatross", "004.Groove_billed_Ani")
    names = [f"{species[i % 2]}/Bird_{i:04d}.jpg" for i in range(birds)]
    with tarfile.open(folder / "CUB_200_2011.tgz", "w:gz") as archive:
        listed = [f"{i} {name}" for i, name in enumerate(names, 1)]
        parts = [f"{i} {int(i > birds // 2)}" for i in range(1, birds + 1)]
        add(archive, "CUB_200_2011/images.txt", "\n".join(listed).encode())
        add(archive, "CUB_200_2011/train_test_split.txt", "\n".join(parts).encode())
        for name in names:
            add(archive, f"CUB_200_2011/images/{name}", picture(rng, (40, 30), 200, "JPEG"))
    with tarfile.open(folder / "segmentations.tgz", "w:gz") as archive:
        mask = np.zeros((30, 40), np.uint8)
        mask[10:20, 10:30] = 255
        for name in names:
            written = io.BytesIO()
            Image.fromarray(mask).save(written, "PNG")
            add(archive, f"segmentations/{name[:-4]}.png", written.getvalue())
    for shade, place in enumerate(PLACES):
        (folder / "data_large" / place).mkdir(parents=True)
        for number in range(birds):
            path = folder / "data_large" / place / f"{number:08d}.jpg"
            path.write_bytes(picture(rng, (64, 24 + number), 40 * shade, "JPEG"))


def add(archive, name, data):
    """A file of an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def picture(rng, size, shade, kind):
    """The bytes of an image of noise about a shade."""
    width, height = size
    written = io.BytesIO()
    pixels = rng.integers(shade, shade + 40, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()
