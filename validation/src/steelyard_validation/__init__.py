"""Readers of measured tables, scores of predictions against them, and the pages that show both."""
