"""``python -m tests.compiled``: have the simulator's kernel compiled and kept before tests start in several processes.

Each of them would compile it for itself otherwise, at the same time.
"""

from __future__ import annotations

import steelyard

if __name__ == "__main__":
    load = {"rate": 2.0, "isl": 200, "osl": 20, "requests": 20}
    for words in ({}, {"policy": "mlfq"}, {"policy": "fair"}, {"policy": "slo-chunk"}):
        steelyard.simulate("llama-3.1-8b", "h100_sxm", **load, **words)
