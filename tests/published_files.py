"""Small files in exactly the formats in which SNLI, MNLI (also GLUE's) and HANS were published."""

import json
import pathlib

PARSES = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
TEXTS = ("sentence1", "sentence2")
VOTES = ("label1", "label2", "label3", "label4", "label5")
SNLI = ("gold_label", *PARSES, *TEXTS, "captionID", "pairID", *VOTES)
MNLI = ("gold_label", *PARSES, *TEXTS, "promptID", "pairID", "genre", *VOTES)
GLUE = ("index", "promptID", "pairID", "genre", *PARSES, *TEXTS, *VOTES, "gold_label")
HANS = ("gold_label", *PARSES, *TEXTS, "pairID", "heuristic", "subcase", "template")

# Every label with and without overlap; quotes, apostrophes, letters beyond ASCII and a pair without
# a gold label, as there are.
PAIRS = (
    ("entailment", 'A man says "hello" to Zoë.', 'A man says "hello'),
    ("neutral", "Two dogs don't run.", "The dogs are tired"),
    ("contradiction", "A woman sleeps \\ on a bench.", "Nobody sleeps."),
    ("entailment", "A man sleeps.", "Someone sleeps"),
    ("neutral", "A man who left sleeps.", "A man left"),
    ("contradiction", "A man chased a dog.", "A dog chased a man"),
    ("-", "A child plays.", "It is late"),
)
HANS_PAIRS = (
    ("non-entailment", "The president advised the doctor .", "The doctor advised the president ."),
    ("entailment", "The judge and the actor ran .", "The actor ran ."),
)
HEURISTICS = ("lexical_overlap", "subsequence", "constituent")


def rows(pairs, count):
    """Rows with every column of any format; texts differ by a number."""
    made = []
    for i in range(count):
        label, first, second = pairs[i % len(pairs)]
        first, second = f"{i} {first}", f"{second} {i}"
        tree = {name: f"(ROOT ({name}))" for name in PARSES}
        vote = "neutral" if label == "-" else label
        made.append(
            {"gold_label": label, "sentence1": first, "sentence2": second, **tree}
            | {"captionID": f"{i}.jpg#2", "pairID": f"{i}.jpg#2r1n", "promptID": str(i)}
            | {"genre": ("slate", "fiction", "travel")[i % 3], "index": str(i)}
            | dict.fromkeys(VOTES[1:], "") | {"label1": vote}
            | {"heuristic": HEURISTICS[i // 2 % 3], "subcase": "ln_passive", "template": "temp1"}
        )  # fmt: skip
    return made


def write_table(path: pathlib.Path, columns, made) -> None:
    """Tabs, a header, no quoting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(columns), *("\t".join(row[c] for c in columns) for row in made)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_jsonl(path: pathlib.Path, columns, made) -> None:
    """As above, the votes in a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in made:
        values = {c: row[c] for c in columns if c not in VOTES}
        votes = [row["label1"]] if set(VOTES) & set(columns) else None
        lines.append(json.dumps({"annotator_labels": votes} | values) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def write(folder: pathlib.Path, count: int = 120) -> pathlib.Path:
    """All files that `configs/studies/published_nli.py` reads, and those beside them."""
    pairs, hans = rows(PAIRS, count), rows(HANS_PAIRS, count)
    for split in ("train", "dev", "test"):
        path = folder / "snli_1.0" / f"snli_1.0_{split}.txt"
        write_table(path, SNLI, pairs)
        write_jsonl(path.with_suffix(".jsonl"), SNLI, pairs)
    path = folder / "multinli_1.0" / "multinli_1.0_dev_matched.txt"
    write_table(path, MNLI, pairs)
    write_jsonl(path.with_suffix(".jsonl"), MNLI, pairs)
    write_table(folder / "MNLI" / "dev_matched.tsv", GLUE, pairs)
    path = folder / "hans" / "heuristics_evaluation_set.txt"
    write_table(path, HANS, hans)
    write_jsonl(path.with_suffix(".jsonl"), HANS, hans)
    return folder
