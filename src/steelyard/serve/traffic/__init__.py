"""Traffic: which requests arrive when, how long they are, and what they wait for."""

from __future__ import annotations

from steelyard.serve.traffic.arrivals import Arrivals, parse_arrivals
from steelyard.serve.traffic.build import Traffic, traffic
from steelyard.serve.traffic.lengths import Lengths, parse_lengths
from steelyard.serve.traffic.readers import READERS, Recorded, read_recorded, read_trace
from steelyard.serve.traffic.trace import Trace

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
