"""Ways of scoring sites of a net, a file each."""
