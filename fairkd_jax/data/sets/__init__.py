"""One data set a file; the file name is the name in a config."""
