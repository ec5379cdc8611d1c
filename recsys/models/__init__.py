"""Models, one a file, and the one registry."""
