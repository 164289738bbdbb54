"""The repository of HANS as its authors distribute it, with a few pairs."""

import published_files


def write(folder):
    """`heuristics_train_set.txt` and `heuristics_evaluation_set.txt`."""
    made = published_files.rows(published_files.HANS_PAIRS, 42)
    for part in ("train", "evaluation"):
        path = folder / f"heuristics_{part}_set.txt"
        published_files.write_table(path, published_files.HANS, made)
