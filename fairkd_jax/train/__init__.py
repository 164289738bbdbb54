"""One step -> a loop -> a checkpoint."""
