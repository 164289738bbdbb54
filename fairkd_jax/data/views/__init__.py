"""Raw inputs -> the arrays that a net reads. One view a file, named by the file."""
