"""Named sets -> batches with label, attribute, group and a stable id."""
