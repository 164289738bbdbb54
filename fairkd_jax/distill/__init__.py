"""Two nets' outputs -> per-example losses. One method a file, named by the file."""
