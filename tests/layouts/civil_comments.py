"""The table of CivilComments as WILDS distributes it, with a few comments."""

import csv

IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
HEADER = ("", "id", "comment_text", "split", "created_date", "toxicity", "threat", *IDENTITIES,
          "identity_any")  # fmt: skip


def write(folder, count=60):
    """`all_data_with_identities.csv`: shares of annotators, comments of several lines."""
    with (folder / "all_data_with_identities.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for i in range(count):
            shares = [(0.0, 0.5, 0.75, 0.25)[(i + k) // (k + 1) % 4] for k in range(8)]
            text = f'Comment "{i}", of\ntwo lines' if i % 5 == 0 else f"Comment {i}"
            toxicity, about = (0.0, 0.6, 0.49)[i % 3], float(max(shares) >= 0.5)
            split = ("train", "val", "test")[i // 2 % 3]
            writer.writerow((i, 7000 + i, text, split, "2017-01-01", toxicity, "", *shares, about))
