"""``python docs/_make/searches.py``: the pictures of the guides of searches, from the library's own answers."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import steelyard as sy
from steelyard.search.chip import ChipSearch

IMAGES = Path(__file__).parents[1] / "guide/img"


def _chips() -> ChipSearch:
    """The search of the guide, from the files that it shows."""
    page = (IMAGES.parent / "search-chip.md").read_text()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in re.findall(r'```toml title="([^"]+)"\n(.*?)```', page, re.DOTALL):
            (Path(folder) / name).write_text(text)
        return sy.search_chip(Path(folder) / "npu.toml", ["resnet18"], area_m2=25e-6, power_w=2.0)


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
        "search-chip": _chips(),
    }
    for name, found in answers.items():
        found.plot(*(("front", "history") if name == "search-network" else ("front",))).save(IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
