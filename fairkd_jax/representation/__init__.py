"""Two nets -> how they differ inside."""
