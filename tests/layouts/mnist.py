"""The four idx files of MNIST as its authors distribute them, with a few digits."""

import gzip

import numpy as np


def write(folder, parts=None):
    """`train-images-idx3-ubyte.gz` and so on, of (images uint8 [N, 28, 28], labels) by part."""
    for part, (images, labels) in (parts or made()).items():
        for array, name in ((images, "images-idx3"), (labels, "labels-idx1")):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
            path = folder / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


def made():
    """Bars in place of digits."""
    rng = np.random.default_rng(0)
    found = {}
    for part, count in (("train", 100), ("t10k", 20)):
        images = rng.integers(0, 40, (count, 28, 28), np.uint8)
        labels = np.arange(count) % 10
        for image, label in zip(images, labels):
            image[4:24, 4 + 2 * label : 7 + 2 * label] = 255
        found[part] = images, labels
    return found
