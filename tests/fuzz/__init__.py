"""Seeded mutation of every kind of outside data: ``make fuzz``, or ``python -m tests.fuzz --help``."""
