"""Energy and carbon of whole trainings against what was published of them, with the grid's intensity given."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy

#: Words of the training, then million device hours and tonnes of carbon dioxide as published: BLOOM (Luccioni et al.,
#: 2211.05100, table 2: 1,082,990 hours of A100 at their rated 400 W, 57 g/kWh, 24.7 t without idle nodes) and the
#: model card of Llama 3.1 405B (30.84 M hours of H100 at 700 W, 8,930 t, which is 414 g/kWh).
BLOOM = {"model": "bigscience/bloom", "on": "a100_sxm:384", "gbs": 2048, "seq": 2048, "tp": 4, "pp": 12, "mbs": 2}
LLAMA = {
    "model": "llama-3.1-405b",
    "on": "h100_sxm:16384",
    "gbs": 2048,
    "seq": 8192,
    "tp": 8,
    "pp": 16,
    "vp": 8,
    "dp": 128,
}
PUBLISHED = [
    (BLOOM | {"framework": "megatron@2022", "recompute": "full", "tokens": "366B", "carbon": 57}, 1.083, 24.7),
    (LLAMA | {"tokens": "15.6T", "failures": "llama3", "carbon": 414}, 30.84, 8930.0),
]


@pytest.mark.parametrize(("words", "hours", "tonnes"), PUBLISHED)
def test_carbon_of_the_devices_of_published_trainings(words: dict[str, Any], hours: float, tonnes: float) -> None:
    found = sy.train(**words)
    run, cluster = found.run, found.scenario.cluster
    assert run is not None
    assert run.kgco2 is not None
    mine = run.days["p50"] * 24 * cluster.count / 1e6
    assert mine / hours == pytest.approx(1.0, abs=0.25)  # the rest of BLOOM's hours were no steps of the run
    devices_kwh = run.kwh["p50"] - cluster.hosts_w / 1e3 * 24 * run.days["p50"]  # cards count no hosts
    assert devices_kwh * words["carbon"] / 1e6 / tonnes == pytest.approx(1.0, abs=0.25)
    assert run.kgco2["p10"] < run.kgco2["p50"] < run.kgco2["p90"]
    twice = sy.train(**{**words, "carbon": 2 * words["carbon"]}).run
    assert twice is not None and twice.kgco2 is not None
    assert twice.kgco2["p50"] == pytest.approx(2 * run.kgco2["p50"])
