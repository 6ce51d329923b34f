"""Sweeps: a study file becomes points, executors price them, a store keeps what they say."""
