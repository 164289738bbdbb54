"""What a set holds, for the eye: how many examples each group of each split has, and some."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np

from fairkd_jax.data.dataset import Info, Split

EXAMPLES = 6  # of each group on a sheet, evenly spaced through the split
TEXTS = ("premise", "hypothesis", "text")


def table(splits: Mapping[str, Split]) -> str:
    """Examples by group, a row each, and by split, a column each; then those by subpopulation.

    Splits whose groups, or subpopulations, have other names stand in a table of their own.
    """
    groups = _alike(splits, lambda info: (info.group_names, info.aligned))
    parts = _alike(splits, lambda info: info.subpopulations)
    return "\n\n".join(
        [_groups(these) for these in groups]
        + [_subpopulations(these) for these in parts if _info(these).subpopulations]
    )


def _alike(splits: Mapping[str, Split], key: Callable[[Info], Hashable]) -> list[dict[str, Split]]:
    found: dict[Hashable, dict[str, Split]] = {}
    for name, split in splits.items():
        found.setdefault(key(split.info), {})[name] = split
    return [*found.values()]


def _info(splits: Mapping[str, Split]) -> Info:
    return next(iter(splits.values())).info


def _groups(splits: Mapping[str, Split]) -> str:
    info, each = _info(splits), splits.values()
    right = ["right" if a else "wrong" for row in info.aligned for a in row]
    counts = np.stack([split.counts() for split in each], axis=1)
    rows = [["group", "shortcut", *splits]]
    rows += [[*told, *map(_number, line)] for *told, line in zip(info.group_names, right, counts)]
    rows += [["all", "", *(_number(len(split)) for split in each)]]
    for reason in dict.fromkeys(reason for split in each for reason in split.left_out):
        left = (split.left_out.get(reason, 0) for split in each)
        rows.append([f"left out: {reason}", "", *map(_number, left)])
    return _lined_up(rows)


def _subpopulations(splits: Mapping[str, Split]) -> str:
    counts = np.stack([split.member_counts() for split in splits.values()], axis=1)
    rows = [["subpopulation", "", *splits]]
    names = _info(splits).subpopulations
    return _lined_up(rows + [[k, "", *map(_number, line)] for k, line in zip(names, counts)])


def _lined_up(rows: list[list[str]]) -> str:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    lines = []
    for names, numbers in ((row[:2], row[2:]) for row in rows):
        cells = [cell.ljust(width) for cell, width in zip(names, widths)]
        cells += [cell.rjust(width) for cell, width in zip(numbers, widths[2:])]
        lines.append("  ".join(cells))
    return "\n".join(lines)


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
                yield f"    {column}: {text}"
            yield ""
        yield ""


def spaced(rows: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """At most `count` of some rows, evenly spaced."""
    few = min(count, len(rows))
    return [int(rows[i * len(rows) // few]) for i in range(few)]
