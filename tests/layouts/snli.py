"""The archive of SNLI as its authors distribute it, with a few pairs."""

import published_files

ROWS = published_files.rows(published_files.PAIRS, 42)


def write(folder, suffix=".jsonl"):
    """`snli_1.0/snli_1.0_train.jsonl` and so on, or .txt; the path of the test pairs."""
    write = published_files.write_jsonl if "json" in suffix else published_files.write_table
    for part in ("train", "dev", "test"):
        path = folder / "snli_1.0" / f"snli_1.0_{part}{suffix}"
        write(path, published_files.SNLI, ROWS)
    return path
