"""``python -m benchmarks [NAME] [--quick] [--json FILE]``: every row is checked before it is timed."""
