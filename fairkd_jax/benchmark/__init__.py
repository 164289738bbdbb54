"""What a training step costs: the library's, a hand-written one, one under pmap."""
