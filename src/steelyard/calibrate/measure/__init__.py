"""Measuring this computer: what it is, what to time, how to time it on a machine that others use too."""
