"""Traffic: which requests arrive when, and how long they are."""

from __future__ import annotations

from steelyard.serve.traffic.trace import Trace

__all__ = ["Trace"]
