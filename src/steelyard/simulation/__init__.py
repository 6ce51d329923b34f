"""The serving simulator."""
