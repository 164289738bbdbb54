"""The repository of counterfactual NLI as its authors distribute it, with a few pairs."""

import csv

PAIRS = (
    ("neutral", 'A man with a can of "soda" waits.', "A man waits in a café."),
    ("entailment", "A dog runs.", "An animal runs"),
    ("contradiction", "A child sleeps.", "Nobody sleeps"),
)


def write(folder):
    """`NLI/original/train.tsv` and so on, quoted where needed."""
    for origin, times in (("original", 1), ("revised_premise", 2), ("revised_hypothesis", 2)):
        place = folder / "NLI" / origin
        place.mkdir(parents=True)
        for part in ("train", "dev", "test"):
            with (place / f"{part}.tsv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t", lineterminator="\n")
                writer.writerow(("sentence1", "sentence2", "gold_label"))
                for i in range(12 * times):
                    label, *texts = PAIRS[i % 3]
                    writer.writerow((f"{i} {texts[0]}", texts[1], label))
