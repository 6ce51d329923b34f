"""Orders of the waiting queue. The contract is in :mod:`steelyard.simulation.policies._base`."""

from steelyard.simulation.policies._base import Order, Policy
from steelyard.simulation.policies._load import POLICIES, check_policy, find_policy, ordered, registered_policy

__all__ = ["POLICIES", "Order", "Policy", "check_policy", "find_policy", "ordered", "registered_policy"]
