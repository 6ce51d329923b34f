"""Traffic: which requests arrive when, how long they are, and what they wait for."""

from __future__ import annotations

from steelyard.traffic.arrivals import Arrivals, parse_arrivals
from steelyard.traffic.build import Traffic, traffic
from steelyard.traffic.lengths import Lengths, parse_lengths
from steelyard.traffic.readers import READERS, Recorded, read_recorded, read_trace
from steelyard.traffic.trace import Trace

__all__ = [
    "READERS",
    "Arrivals",
    "Lengths",
    "Recorded",
    "Trace",
    "Traffic",
    "parse_arrivals",
    "parse_lengths",
    "read_recorded",
    "read_trace",
    "traffic",
]
