"""The tables of `benchmarks/placement.py`."""
