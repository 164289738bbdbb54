"""The folder of UTKFace, with a few generated images."""

import itertools

import numpy as np
from PIL import Image


def write(folder):
    """`UTKFace/AGE_GENDER_RACE_DATE.jpg.chip.jpg`, one of which does not tell the race."""
    rng = np.random.default_rng(0)
    (folder / "UTKFace").mkdir()
    every = itertools.product((5, 15, 30, 60), (0, 1), range(5), range(2))
    names = [f"{a}_{g}_{r}_201701161745{i:05d}" for i, (a, g, r, _) in enumerate(every)]
    for name in [*names, "39_1_20170116174525125"]:
        path = folder / "UTKFace" / f"{name}.jpg.chip.jpg"
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path)
