"""Plans: number formats, sharding, fusion and engine - how a workload runs on a machine."""

from steelyard.deployment.formats import Format, compute_with, find_format, formats
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding, shard

__all__ = ["Format", "Plan", "check_sharding", "compute_with", "find_format", "formats", "shard"]
