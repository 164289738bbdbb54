"""Extra examples, and changes of examples by chance. One augmentation a file, named by the file."""
