"""Experiments: each file is a typed Python value whose docstring says what it is, on what, and what to expect."""
