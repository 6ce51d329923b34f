"""Answers for static batches: estimates and what would make them fit."""
