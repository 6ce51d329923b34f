"""``python docs/_make/searches.py``: the pictures of the guides of searches, from the library's own answers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import steelyard as sy
from steelyard.exploration.codesign import Codesign
from steelyard.exploration.predictors import Leaderboard
from steelyard.search.chip import ChipSearch
from steelyard.workload.networks.search_space import find_space

IMAGES = Path(__file__).parents[1] / "guide/img"


def _chips() -> tuple[ChipSearch, Codesign]:
    """The searches of the guide, from the files that it shows."""
    page = (IMAGES.parent / "search-chip.md").read_text()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in re.findall(r'```toml title="([^"]+)"\n(.*?)```', page, re.DOTALL):
            (Path(folder) / name).write_text(text)
        chips = sy.search_chip(Path(folder) / "npu.toml", ["resnet18"], area_m2=25e-6, power_w=2.0)
        return chips, sy.search_codesign(Path(folder) / "both.toml", ["nb201"], score=_worse_in_four_bits())


def _worse_in_four_bits() -> dict[str, Callable[[list[str]], list[float]]]:
    """A score that counts convolutions of three pixels, and is a fifth lower in four bits."""

    def counted(names: list[str]) -> list[float]:
        return [name.count("3x3") + 0.4 * name.count("1x1") for name in names]

    return {"int8": counted, "w4a4": lambda names: [0.8 * value for value in counted(names)]}


def _predictors() -> Leaderboard:
    """Twenty networks whose times are estimates, scattered by 5 % as measurements are."""
    space, rng = find_space("nb201"), np.random.default_rng(7)
    names = [space.spell(code) for code in space.draw(20, seed=7).tolist()]
    times = [sy.estimate(f"nb201:{name}", on="raspberry_pi_5").latency_s for name in names]
    measured = dict(zip(names, times * np.exp(0.05 * rng.standard_normal(len(times))), strict=True))
    return sy.search_predictor(measured, space="nb201", like="snapdragon_845")


def main() -> None:
    """Write every picture."""
    chips, both = _chips()
    answers = {
        "search-network": sy.search_network(
            "nb201", on="rtx_3090", latency="6ms", score="macs", solver="evolution", budget=2000
        ),
        "search-bits": sy.search_bits("resnet18", on="rk3588", bits="w4a8,8,16", latency="4ms"),
        "search-prune": sy.search_prune("resnet18", on="rk3588", keep="1,0.75,0.5", latency="2.9ms"),
        "search-placement": sy.search_placement(
            "resnet50", on="rk3588,jetson_orin_nano", goal="throughput", link="4GB/s"
        ),
        "search-chip": chips,
        "search-codesign": both,
        "search-predictor": _predictors(),
        "search-cost": sy.search_cost(
            "ofa",
            on="v100_sxm_16gb:32",
            gbs=2048,
            precision="fp32",
            set="size=180",
            epochs=180,
            shared="180:largest,120:largest,145:2,145:4",
            teacher="largest",
            rungs="1000:20,100:60,10:180",
        ),
    }
    figures = {"search-network": ("front", "history"), "search-predictor": (), "search-cost": ()}
    for name, found in answers.items():
        found.plot(*figures.get(name, ("front",))).save(IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
