"""What a set holds, for the eye: how many examples each group of each split has, and some."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fairkd_jax.data.dataset import Split

EXAMPLES = 6  # of each group on a sheet, evenly spaced through the split
TEXTS = ("premise", "hypothesis", "text")


def table(splits: Mapping[str, Split]) -> str:
    """Examples by group, a row each, and by split, a column each; so too by subpopulation.

    Splits whose groups have other names stand in a table of their own.
    """
    alike: dict[tuple, dict[str, Split]] = {}
    for name, split in splits.items():
        info = dataclasses.replace(split.info, expected_counts={}, source="")
        key = (info.label_names, info.attribute_names, info.subpopulations)
        alike.setdefault(key, {})[name] = split
    return "\n\n".join(_table(these) for these in alike.values())


def _table(splits: Mapping[str, Split]) -> str:
    info = next(iter(splits.values())).info
    right = ["right" if a else "wrong" for row in info.aligned for a in row]
    rows = [["group", "shortcut", *splits]]
    counts = np.stack([split.counts() for split in splits.values()], axis=1)
    rows += [[*told, *map(_number, line)] for *told, line in zip(info.group_names, right, counts)]
    rows += [["all", "", *(_number(len(split)) for split in splits.values())]]
    for reason in dict.fromkeys(r for split in splits.values() for r in split.left_out):
        left = (split.left_out.get(reason, 0) for split in splits.values())
        rows.append([f"left out: {reason}", "", *map(_number, left)])
    if info.subpopulations:
        rows += [[""] * len(rows[0]), ["subpopulation", "", *splits]]
        members = np.stack([split.member_counts() for split in splits.values()], axis=1)
        rows += [[k, "", *map(_number, line)] for k, line in zip(info.subpopulations, members)]
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _number(count: int) -> str:
    return f"{count:,}"


def sheet(splits: Mapping[str, Split]) -> str:
    """Some texts of each group of each split, to be read."""
    return "\n".join(line for name, split in splits.items() for line in _sheet(name, split))


def _sheet(name: str, split: Split) -> Iterator[str]:
    columns = [c for c in TEXTS if c in split.columns]
    for group, told in enumerate(split.info.group_names):
        rows = np.flatnonzero(split.columns["group"] == group)
        yield f"{name}: {told} ({len(rows):,} examples)"
        for row in spaced(rows, EXAMPLES):
            for column in columns:
                text = " ".join(split.columns[column][row : row + 1][0].split())
                yield f"    {column if len(columns) > 1 else ''}{': ' * (len(columns) > 1)}{text}"
            yield ""
        yield ""


def spaced(rows: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """At most `count` of some rows, evenly spaced."""
    few = min(count, len(rows))
    return [int(rows[i * len(rows) // few]) for i in range(few)]
