"""Workloads: what runs, independent of where and how."""

from steelyard.workload.graph import Graph
from steelyard.workload.op import Op, Operand
from steelyard.workload.transformer import Attention, FeedForward, Layer, Step, Transformer

__all__ = ["Attention", "FeedForward", "Graph", "Layer", "Op", "Operand", "Step", "Transformer"]
