"""Console scripts, a file each; `launch/` in a checkout holds the same by another name."""
