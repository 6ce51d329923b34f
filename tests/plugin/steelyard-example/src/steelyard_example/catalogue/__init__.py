"""Machines, classes of machines and engines, found by the entry point ``steelyard.catalogues``."""
