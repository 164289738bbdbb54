"""A folder of images with a .csv that says what each shows and in which split it is."""

import numpy as np
from PIL import Image


def write(folder):
    """`pictures/a0.png` and so on, and `about.csv`; the options of a set that reads them."""
    rng = np.random.default_rng(0)
    lines = ["file,shade,frame,split"]
    for row in range(24):
        path = folder / "pictures" / f"a{row}.{('png', 'jpg')[row % 2]}"
        path.parent.mkdir(exist_ok=True)
        shade = row // 2 % 2
        pixels = rng.integers(120 * shade, 120 + 120 * shade, (20, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        lines.append(
            f"{path.name},{('dark', 'light')[shade]},{row % 2},{('train', 'test')[row > 15]}"
        )
    (folder / "about.csv").write_text("\n".join([*lines, ""]))
    return {
        "folder": str(folder),
        "images": "pictures",
        "train": "about.csv",
        "test": "about.csv",
        "where": {"train": {"split": "train"}, "test": {"split": "test"}},
        "label": "shade",
        "label_names": ("dark", "light"),
        "attribute": "frame",
        "attribute_names": ("0", "1"),
        "suggests": {"0": "dark", "1": "light"},
        "size": 12,
    }
