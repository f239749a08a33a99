"""Benchmarks: ``python -m benchmarks NAME [--quick] [--json FILE]``. Every row is checked before it is timed."""
