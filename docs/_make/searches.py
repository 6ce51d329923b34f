"""``python docs/_make/searches.py``: the pictures of the guides of searches, from the library's own answers."""

from __future__ import annotations

from pathlib import Path

import steelyard as sy

IMAGES = Path(__file__).parents[1] / "guide/img"


def main() -> None:
    """Write every picture."""
    answers = {
        "search-network": sy.search_network(
            "nb201", on="rtx_3090", latency="6ms", score="macs", solver="evolution", budget=2000
        ),
        "search-bits": sy.search_bits("resnet18", on="rk3588", bits="w4a8,8,16", latency="4ms"),
        "search-prune": sy.search_prune("resnet18", on="rk3588", keep="1,0.75,0.5", latency="2.9ms"),
        "search-placement": sy.search_placement(
            "resnet50", on="rk3588,jetson_orin_nano", goal="throughput", link="4GB/s"
        ),
    }
    for name, found in answers.items():
        found.plot(*(("front", "history") if name == "search-network" else ("front",))).save(IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
