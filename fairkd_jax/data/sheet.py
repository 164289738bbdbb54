"""A sheet of some images of each group of each split, with names and counts, to be looked at."""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fairkd_jax.data.dataset import Split
from fairkd_jax.data.summary import spaced

EXAMPLES = 8  # of each group, evenly spaced through the split
SIDE, GAP, WORDS, LINE = 80, 6, 300, 16  # pixels: of an image, between them, of what is said


def write(path: pathlib.Path, splits: Mapping[str, Split]) -> None:
    """A PNG of all splits, side by side: a row for each group and subpopulation with examples.

    Raises ValueError, naming the file, for an image that is broken.
    """
    sheets = [_draw(name, split) for name, split in splits.items()]
    size = sum(one.width for one in sheets), max(one.height for one in sheets)
    whole, x = Image.new("RGB", size, "white"), 0
    for one in sheets:
        whole.paste(one, (x, 0))
        x += one.width
    whole.save(path, "PNG")


def _draw(name: str, split: Split) -> Image.Image:
    info, group = split.info, split.columns["group"]
    told = [f"{label}\n{value}" for label in info.label_names for value in info.attribute_names]
    members = {text: np.flatnonzero(group == i) for i, text in enumerate(told)}
    for i, text in enumerate(info.subpopulations):
        members[text] = np.flatnonzero(split.columns["member"][:, i])
    rows = {text: found for text, found in members.items() if len(found)}
    height, top = SIDE + GAP, 2 * LINE
    size = (WORDS + EXAMPLES * height + GAP, top + len(rows) * height + GAP)
    sheet, font = Image.new("RGB", size, "white"), ImageFont.load_default(13)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), f"{name}: {len(split):,} examples; label, attribute", "black", font)
    for place, (text, found) in enumerate(rows.items()):
        y = top + place * height
        pen.multiline_text((GAP, y), f"{text}\n{len(found):,} examples", "black", font)
        chosen = np.array(spaced(found, EXAMPLES))
        for column, pixels in enumerate(split.columns["image"][chosen]):
            image = Image.fromarray(pixels.squeeze())
            large = image.width < SIDE  # so that pixels are seen as they are
            how = Image.Resampling.NEAREST if large else Image.Resampling.BILINEAR
            sheet.paste(image.resize((SIDE, SIDE), how), (WORDS + column * height, y))
    return sheet
