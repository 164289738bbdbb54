"""The repository of the negation benchmarks as its authors distribute it, with a few pairs."""

import published_files

HEADER = ("index", "Text", "Hypothesis", "gold_label")


def write(folder):
    """`data/new_benchmarks/clean_data/MNLI.txt` and `SNLI.txt`, the first in Windows-1252."""
    place = folder / "data" / "new_benchmarks" / "clean_data"
    made = [r for r in published_files.rows(published_files.PAIRS, 42) if "-" not in r.values()]
    for name, encoding in (("MNLI", "cp1252"), ("SNLI", "utf-8")):
        rows = [
            (str(i), r["sentence1"], r["sentence2"], r["gold_label"]) for i, r in enumerate(made)
        ]
        place.mkdir(parents=True, exist_ok=True)
        text = "".join("\t".join(row) + "\n" for row in (HEADER, *rows))
        (place / f"{name}.txt").write_text(text, encoding=encoding)
