"""Networks with chips: the front beside every pair weighed whole, solvers beside it, limits, refusals, forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.cli.main import main
from steelyard.deployment.runtime import precision_named
from steelyard.errors import DoesNotFit, InputError
from steelyard.exploration.codesign import Codesign, search_codesign
from steelyard.search.chip_price import price_chips
from steelyard.search.chip_space import read_space
from steelyard.search.chip_work import read_work
from steelyard.workload.networks.search_space import find_space
from tests.unit.test_chip_search import BASE

CHIPS = """
base = "npu.toml"

[choose]
precision = ["int8", "w4a4"]
compute.array.rows = [16, 32]
compute.array.dataflow = ["weight_stationary", "output_stationary"]

[[when]]
field = "compute.array.dataflow"
values = ["output_stationary"]
choose = { "memory.buffer.capacity_bytes" = ["64KiB", "1MiB"] }
"""
NETS = """
family = "mobile"
config = { stem = 8, head = 64 }

[choose]
size = [48, 64]

[[stage]]
row = "mb {channels} k3 s2 x{expand} n1"
choose = { channels = [16, 24], expand = [3, 6] }
"""
FORMATS = ("int8", "w4a4")


def better_in_int8(fmt: str) -> object:
    """A score of one's own: the length of the text, less in fewer bits."""
    return lambda names: [sum(map(ord, n)) % 97 - 5.0 * (fmt == "w4a4") for n in names]


SCORES = {fmt: better_in_int8(fmt) for fmt in FORMATS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    (folder / "npu.toml").write_text(BASE.replace('int8 = "409.6GOP/s"', 'int8 = "409.6GOP/s", int4 = "819.2GOP/s"'))
    (folder / "chips.toml").write_text(CHIPS)
    (folder / "nets.toml").write_text(NETS)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Codesign:
    return search_codesign(folder / "chips.toml", [str(folder / "nets.toml")], score=SCORES)


def _figures(found: Codesign) -> np.ndarray:
    rows = [
        (-p.score, *p.chip.latency_s.values(), *p.chip.energy_j.values(), p.chip.area_m2 * 1e3) for p in found.front
    ]
    return np.array(sorted(rows))


def test_the_front_is_that_of_every_pair_weighed_whole(folder: Path, found: Codesign) -> None:
    """Each network is lowered and mapped by itself, and every pair compared with every other."""
    space, nets = read_space(folder / "chips.toml"), find_space(str(folder / "nets.toml"))
    names = [nets.spell(code) for code in nets.all().tolist()]
    works = {f: read_work([f"{nets.prefix}:{n}" for n in names], precision_named(f)) for f in FORMATS}
    chips = price_chips(space, works)
    scores = np.array([SCORES[f](names) for f in space.column("precision", "", space.codes)])  # type: ignore[operator]
    area = np.broadcast_to(chips.area_m2[:, None] * 1e3, scores.shape)
    every = np.stack([-scores, chips.time_s, chips.energy_j, area], axis=2).reshape(-1, 4)
    worse = (every[:, None] >= every[None]).all(axis=2) & (every[:, None] > every[None]).any(axis=2)
    assert found.exact
    assert found.tried == found.feasible == found.pairs == len(every) == 12 * 8
    assert _figures(found) == pytest.approx(np.array(sorted(map(tuple, every[~worse.any(axis=1)]))), rel=1e-9)


def test_a_solver_that_tries_enough_finds_the_same_front(folder: Path, found: Codesign, tmp_path: Path) -> None:
    words = {"score": SCORES, "budget": 1000, "log": str(tmp_path / "log.jsonl")}
    solved = search_codesign(folder / "chips.toml", [str(folder / "nets.toml")], solver="random", **words)
    assert not solved.exact
    assert solved.front_size == found.front_size
    assert _figures(solved) == pytest.approx(_figures(found), rel=1e-9)


def test_limits_and_workloads_beside_hold_for_every_pair(folder: Path, found: Codesign) -> None:
    area = float(np.median([p.chip.area_m2 for p in found.front]))
    some = search_codesign(
        folder / "chips.toml", [str(folder / "nets.toml"), "bert-base"], score=SCORES, area_m2=area, context=32
    )
    assert 0 < some.feasible < found.feasible
    assert all(p.chip.area_m2 <= area and p.chip.latency_s["bert-base"] > 0 for p in some.front)
    with pytest.raises(DoesNotFit, match="no pair of 96 that were tried keeps the limits"):
        search_codesign(folder / "chips.toml", [str(folder / "nets.toml")], score=SCORES, latency_s=1e-9)


def test_a_solver_keeps_to_chips_that_are_small_enough(folder: Path, found: Codesign) -> None:
    area = float(np.median([p.chip.area_m2 for p in found.front]))
    solved = search_codesign(
        folder / "chips.toml", [str(folder / "nets.toml")], score=SCORES, solver="evolution", budget=128, area_m2=area
    )
    assert not solved.exact
    assert {p.chip.area_m2 <= area for p in solved.front} == {True}


@pytest.mark.parametrize(
    ("workloads", "words", "message"),
    [
        (["resnet18"], {}, "workloads: expected one space of networks, got 'none'"),
        (["nb201", "ofa"], {}, "workloads: expected one space of networks, got 'nb201, ofa'"),
        (["nb201"], {"score": "int8:macs"}, "score: expected a score for each of int8, w4a4, got int8"),
        (["nb201"], {"score": "mac"}, "did you mean 'macs'"),
        (["nb201"], {"solver": "evolutoin"}, "unknown solver 'evolutoin'"),
    ],
)
def test_wrong_questions_are_refused(folder: Path, workloads: list[str], words: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        search_codesign(folder / "chips.toml", workloads, **words)


def test_scores_that_are_no_number_are_told(folder: Path) -> None:
    with pytest.raises(InputError, match="no network that was tried has a score"):
        search_codesign(folder / "chips.toml", str(folder / "nets.toml"), score=lambda names: [np.nan] * len(names))


def test_a_format_that_there_is_not_is_refused(folder: Path) -> None:
    wrong = folder / "wrong.toml"
    wrong.write_text(CHIPS.replace('"w4a4"', '"int5"'))
    with pytest.raises(InputError, match="unknown precision 'int5'"):
        read_space(wrong)


def test_the_command_line_writes_every_form(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets, page, best = str(folder / "nets.toml"), tmp_path / "page.html", tmp_path / "best.toml"
    words = ["search", "chip", "--space", str(folder / "chips.toml"), "--workloads", nets, "--quiet"]
    score = ["--score", "int8:macs,w4a4:parameters"]
    assert main([*words, *score, "--json", "--html", str(page), "--best", str(best)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["kind"], answer["exact"]) == ("steelyard.search/1", "codesign", True)
    assert {p["chosen"]["precision"] for p in answer["front"]} == set(FORMATS)
    assert "Networks on chips" in page.read_text()
    assert main(["estimate", answer["best"]["score"]["network"], "--on", str(best), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["latency_s"] > 0
    assert main(words) == 0
    assert "front of score, time, energy and area" in capsys.readouterr().out
    assert main(["search", "chip", "--space", "x", "--workloads", "resnet18", "--score", "macs"]) == 2
    assert "--score: expected a space of networks among the workloads" in capsys.readouterr().err
