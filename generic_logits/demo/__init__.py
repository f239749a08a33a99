"""The embedded world and its script."""
