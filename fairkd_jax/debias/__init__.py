"""Per-example losses -> one scalar. One method a file; the file name is the name in a config."""
