"""The archive of MultiNLI as its authors distribute it, with a few pairs, and the hard lists."""

import published_files


def write(folder):
    """`multinli_1.0/multinli_1.0_train.jsonl` and so on."""
    made = published_files.rows(published_files.PAIRS, 42)
    for part in ("train", "dev_matched", "dev_mismatched"):
        path = folder / "multinli_1.0" / f"multinli_1.0_{part}.jsonl"
        published_files.write_jsonl(path, published_files.MNLI, made)
    write_hard(folder / "MNLIMatchedHardWithHardTest", made[:20])


def write_hard(folder, made):
    """Texts set apart otherwise, a line each."""
    folder.mkdir(parents=True)
    for name, column in (("s1.test", "sentence1"), ("s2.test", "sentence2")):
        texts = [row[column].replace(".", " .").replace("'", " '") for row in made]
        (folder / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
