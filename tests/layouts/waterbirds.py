"""The published folder of Waterbirds, with a few generated images."""

import pathlib

import numpy as np
from PIL import Image

ROWS = [  # img_filename, y
    ("001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg", 1),
    ("004.Groove_billed_Ani/Groove_Billed_Ani_0002_1670.jpg", 0),
]


def write(folder, rows=None):
    """`waterbird_complete95_forest2water2/metadata.csv`, and an image for each of its rows.

    `rows` are those of metadata.csv; without them there are some of every group.
    """
    top = pathlib.Path(folder) / "waterbird_complete95_forest2water2"
    top.mkdir()
    rows = rows or [*made()]
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (8, 30, 40, 3), np.uint8)
    for number, (name, y, split, place) in enumerate(rows):
        lines.append(f"{number},{name},{y},{split},{place},/o/ocean/{number:08d}.jpg")
        (top / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[number % 8]).save(top / name)
    (top / "metadata.csv").write_text("\n".join([*lines, ""]))


def made():
    """Three birds of each group and split."""
    for split in range(3):
        for name, y in ROWS:
            for place in range(2):
                for copy in range(3):
                    yield name.replace(".jpg", f"_{split}{place}{copy}.jpg"), y, split, place
