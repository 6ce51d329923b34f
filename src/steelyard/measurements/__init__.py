"""Readers of measured tables for the fits."""
