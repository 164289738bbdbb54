"""The archive of ANLI as its authors distribute it, with a few pairs."""

import json

import published_files


def write(folder):
    """`anli_v1.0/R1/train.jsonl` and so on."""
    made = [r for r in published_files.rows(published_files.PAIRS, 42) if "-" not in r.values()]
    for name in ("R1", "R2", "R3"):
        (folder / "anli_v1.0" / name).mkdir(parents=True)
        for part in ("train", "dev", "test"):
            lines = [
                {
                    "uid": f"{name}-{row['pairID']}",
                    "context": row["sentence1"],
                    "hypothesis": row["sentence2"],
                    "label": row["gold_label"][0],
                    "model_label": "e",
                    "emturk": False,
                }
                for row in made
            ]
            path = folder / "anli_v1.0" / name / f"{part}.jsonl"
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
