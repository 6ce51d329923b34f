"""Serving: requests through an engine, simulated step by step."""
