"""Orders of the waiting queue. The contract is in :mod:`steelyard.serve.policies._base`."""

from steelyard.serve.policies._base import Order, Policy
from steelyard.serve.policies._load import POLICIES, find_policy, ordered

__all__ = ["POLICIES", "Order", "Policy", "find_policy", "ordered"]
