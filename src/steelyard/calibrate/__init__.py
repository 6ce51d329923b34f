"""Calibration: fit a few physical parameters to measurements, and show how right the predictions are."""
