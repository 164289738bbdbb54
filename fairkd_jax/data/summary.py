"""What a set holds, for the eye: how many examples each group of each split has, and some of them."""

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
    told = [[f"{name}", *("aligned" if a else "" for a in ())] for name in info.group_names]
    flags = [a for row in info.aligned for a in row]
    rows = [["group", "shortcut", *splits]]
    counts = np.stack([split.counts() for split in splits.values()], axis=1)
    for (name,), right, line in zip(told, flags, counts):
        rows.append([name, "right" if right else "wrong", *(f"{n:,}" for n in line)])
    rows.append(["all", "", *(f"{len(split):,}" for split in splits.values())])
    for reason in dict.fromkeys(r for split in splits.values() for r in split.left_out):
        rows.append(
            [f"left out, {reason}", "", *(f"{s.left_out.get(reason, 0):,}" for s in splits.values())]
        )
    if info.subpopulations:
        rows.append(["", *[""] * (len(rows[0]) - 1)])
        members = np.stack([split.member_counts() for split in splits.values()], axis=1)
        for name, line in zip(info.subpopulations, members):
            rows.append([name, "", *(f"{n:,}" for n in line)])
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


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
