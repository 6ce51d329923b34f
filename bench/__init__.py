"""Benchmarks: each compares with a baseline in the same run and quotes ratios; the whole is ``python -m bench``."""
