"""The composition root: a checked configuration in, running listeners out."""
