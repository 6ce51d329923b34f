"""Techniques: published ideas, one file each, put on any scenario by ``--with NAME[:param=value,...]``."""

from steelyard.techniques._base import Citation, PoolFit, Technique
from steelyard.techniques._registry import TECHNIQUES, parse, read_techniques

__all__ = ["TECHNIQUES", "Citation", "PoolFit", "Technique", "parse", "read_techniques"]
