"""Models nobody described, read from the names and shapes of their tensors."""

from steelyard.workload.structure.found import LIMIT, Row, Structure
from steelyard.workload.structure.names import torch_name
from steelyard.workload.structure.read import read_structure

__all__ = ["LIMIT", "Row", "Structure", "read_structure", "torch_name"]
