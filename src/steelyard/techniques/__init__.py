"""Techniques: published ideas, one file each, put on any scenario by ``--with NAME[:param=value,...]``."""

from steelyard.techniques._base import TECHNIQUES, Citation, PoolFit, Technique, parse, read_techniques

__all__ = ["TECHNIQUES", "Citation", "PoolFit", "Technique", "parse", "read_techniques"]
