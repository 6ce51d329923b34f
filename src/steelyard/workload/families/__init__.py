"""Model families: from a config to the normal form. The contract is in :mod:`steelyard.workload.families._base`."""

from steelyard.workload.families._base import ACTIVATIONS, Fields, decoder, group_layers
from steelyard.workload.families._read import FAMILIES, Family, described, language_config, read_config
from steelyard.workload.families.decoders import Decoder

__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "Decoder",
    "Family",
    "Fields",
    "decoder",
    "described",
    "group_layers",
    "language_config",
    "read_config",
]
