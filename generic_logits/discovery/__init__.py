"""Finding the terms that belong to a text alone."""
