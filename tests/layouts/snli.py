"""The archive of SNLI as its authors distribute it, with a few pairs."""

import published_files


def write(folder):
    """`snli_1.0/snli_1.0_train.jsonl` and so on."""
    made = published_files.rows(published_files.PAIRS, 42)
    for part in ("train", "dev", "test"):
        path = folder / "snli_1.0" / f"snli_1.0_{part}.jsonl"
        published_files.write_jsonl(path, published_files.SNLI, made)
