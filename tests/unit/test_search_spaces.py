"""Searched spaces: architectures as counts, priced in one call, and devices known by ten measured networks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.deployment.space_device import Prior, costs_of, next_rows, prior_of, space_devices
from steelyard.errors import InputError, SteelyardError
from steelyard.estimation.network import NetEstimate
from steelyard.estimation.space import SpaceEstimate
from steelyard.folders import catalogue_folders
from steelyard.workload.nets import load_net
from steelyard.workload.networks.search_space import SPACES


@pytest.mark.parametrize("name", SPACES)
def test_architectures_are_spelled_as_they_are_read_and_make_the_networks(name: str) -> None:
    space = SPACES[name]
    codes = space.draw(20)
    assert (space.codes(space.spell(c) for c in codes.tolist()) == codes).all()
    assert space.counts(codes).sum(axis=1) == pytest.approx(len(space.kinds))
    assert space.codes([space.example]).shape == (1, len(space.kinds))
    built = load_net(f"{name}:{space.example}")
    assert built.macs() > 1e6
    assert built.name == f"{name}:{space.example}"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nb201:|nor_conv_3x3~0|", "six edges"),
        ("nb201:|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "nor_conv_1x1"),
        ("fbnet:1-2-9", "22 numbers"),
        ("ofa:k3e3", "five stages"),
        ("fbnet:all", "architectures"),
        ("nb201:absent.csv", "no file"),
    ],
)
def test_what_is_no_architecture_is_refused_in_a_line(model: str, words: str) -> None:
    with pytest.raises(SteelyardError, match=words):
        sy.estimate(model, on="rtx_4090")


@pytest.mark.parametrize(
    ("name", "runtime", "off"), [("nb201", "eager", 0.01), ("fbnet", "eager", 0.01), ("ofa", "compile", 0.01)]
)
def test_the_sum_of_choices_is_the_price_of_the_network(name: str, runtime: str, off: float, tmp_path: Path) -> None:
    space = SPACES[name]
    chosen = [space.spell(c) for c in space.draw(4, seed=3).tolist()]
    file = tmp_path / "some.csv"
    file.write_text("architecture\n" + "\n".join(chosen) + "\n")
    words = {"on": "rtx_4090", "batch": 32, "runtime": runtime}
    many = sy.estimate(f"{name}:{file}", **words)
    assert isinstance(many, SpaceEstimate)
    assert many.architectures == chosen
    assert many.energy_j_per_item is not None
    for i, architecture in enumerate(chosen):
        one = sy.estimate(f"{name}:{architecture}", **words)
        assert isinstance(one, NetEstimate)
        assert many.latency_s[i] == pytest.approx(one.latency_s, rel=off)
        assert many.energy_j_per_item[i] == pytest.approx(one.energy_j_per_item, rel=off)
        assert many.macs[i] == pytest.approx(one.macs, rel=1e-6)
        assert many.parameters[i] == pytest.approx(one.parameters, rel=1e-3)


def test_a_batch_that_is_set_is_the_batch_and_what_sums_leave_out_is_said() -> None:
    found = sy.estimate("nb201:all", on="rtx_4090", set="batch=8")
    assert isinstance(found, SpaceEstimate)
    assert found.scenario.batch == 8
    joined = sy.estimate("nb201:all", on="rtx_4090", runtime="compile")
    assert any("joins ops" in text for text in joined.ledger.assumptions)


def test_a_whole_space_is_one_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "nb201:all", "--on", "rtx_4090", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["architectures"]) == len(set(found["architectures"])) == 15_625
    assert found["schema"] == "steelyard.space/1"
    assert np.all(np.array(found["latency_s"]) >= np.array(found["limit_s"]))
    assert main(["estimate", "nb201:all", "--on", "rtx_4090"]) == 0
    assert "15,625 networks of NAS-Bench-201" in capsys.readouterr().out


def _device(name: str, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A device drawn from the prior: counts of architectures, their true times, and as they are measured."""
    rng, prior, space = np.random.default_rng(seed), prior_of(SPACES[name]), SPACES[name]
    costs = np.array(prior.mean) + rng.normal(size=len(prior.factors)) @ np.array(prior.factors)
    counts = space.counts(space.draw(400, seed=seed))
    true = 0.013 * (counts @ costs)
    return counts, true, true * np.exp(noise * rng.normal(size=len(true)))


@pytest.mark.parametrize("name", ["nb201", "fbnet"])
def test_ten_networks_tell_a_device_and_how_sure_it_is(name: str) -> None:
    inside, errors = [], []
    for seed in range(6):
        counts, true, measured = _device(name, seed, 0.03)
        known = costs_of(prior_of(SPACES[name]), counts[:10], measured[:10])
        error = np.log(known.time_s(counts[10:]) / true[10:])
        errors.append(float(np.median(np.abs(error))))
        spread = known.spread(counts[10:])
        inside.append(float(np.mean(np.abs(np.log(known.time_s(counts[10:]) / measured[10:])) < 1.2816 * spread)))
        assert known.noise == pytest.approx(0.03, abs=0.02)
    assert np.mean(errors) < 0.03
    assert 0.7 < np.mean(inside) < 0.95


def test_rows_that_tell_most_are_unlike_each_other_and_what_is_known() -> None:
    space, prior = SPACES["nb201"], prior_of(SPACES["nb201"])
    counts = space.counts(space.all())
    first = next_rows(prior, counts[:0], counts, 4)
    assert len({tuple(counts[i]) for i in first}) == 4
    more = next_rows(prior, counts[first], counts, 1)
    assert tuple(counts[more[0]]) not in {tuple(counts[i]) for i in first[:2]}


def test_a_prior_has_a_cost_for_each_choice() -> None:
    with pytest.raises(InputError, match="5 numbers"):
        Prior("nb201", (0.1, 0.2))
    with pytest.raises(InputError, match="no prior"):
        prior_of(SPACES["ofa"])


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A catalogue of one's own."""
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(tmp_path))
    for kept in (catalogue_folders, space_devices):
        kept.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for kept in (catalogue_folders, space_devices):
        kept.cache_clear()


def test_ten_networks_of_a_phone_answer_the_others(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space, rng = SPACES["nb201"], np.random.default_rng(5)
    codes = space.draw(10, seed=2)
    true = 0.02 * (space.counts(codes) @ np.array([0.05, 0.04, 0.24, 0.40, 0.12]))
    times = 1e3 * true * np.exp(0.02 * rng.normal(size=10))
    lines = [f"{space.spell(code)},{time:.4f}" for code, time in zip(codes.tolist(), times, strict=True)]
    file = catalogue / "my10.csv"
    file.write_text("architecture,latency_ms\n" + "\n".join(lines) + "\n")
    asked = ["calibrate", "--networks", str(file), "--space", "nb201", "--on", "my_phone", "--json"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"]["median_ape"] < 4.0
    assert found["left_out"]["rank"] > 0.95
    assert len(set(found["measure_next"])) == 5
    assert not set(found["measure_next"]) & {r["architecture"] for r in found["rows"]}
    for kept in (catalogue_folders, space_devices):
        kept.cache_clear()
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    one = sy.estimate(f"nb201:{cell}", on="my_phone")
    assert isinstance(one, SpaceEstimate)
    expected = 0.02 * (2 * 0.40 + 2 * 0.05 + 0.04 + 0.12)
    assert one.latency_s[0] == pytest.approx(expected, rel=0.06)
    assert one.low_s[0] < one.latency_s[0] < one.high_s[0] < 1.25 * one.low_s[0]
    assert one.energy_j_per_item is None
    assert one.macs[0] == pytest.approx(load_net(f"nb201:{cell}").macs())
    assert main(["estimate", "nb201:all", "--on", "my_phone", "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 15_626
    for words, wrong in ((["--batch", "8"], "batch of 1"), (["--runtime", "eager"], "unknown machine")):
        assert main(["estimate", f"nb201:{cell}", "--on", "my_phone", *words]) == 2
        assert wrong in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "words", "wrong"),
    [
        ("architecture,ms\n", ["--space", "fbnet", "--on", "x"], "no rows"),
        ("architecture\na\n", ["--space", "fbnet", "--on", "x"], "architecture and seconds"),
        ("architecture,seconds\n1-2,3\n1-3,3\n1-4,3\n", ["--space", "fbnet", "--on", "x"], "22 numbers"),
        ("architecture,seconds\n1-2,-3\n", ["--space", "fbnet", "--on", "x"], "a time of 1 us to 1 h, got '-3'"),
        ("architecture,seconds\n1-2,3\n1-3,3\n1-2,3\n", ["--space", "fbnet", "--on", "x"], "1-2 is in row 2 already"),
        ("architecture,seconds\n", ["--on", "h100_sxm"], "3 to 1,000"),
        ("architecture,seconds\n", ["--space", "fbnet"], "--on DEVICE"),
        ("architecture,seconds\n", ["--space", "mbnet", "--on", "x"], "fbnet"),
        ("architecture,seconds\n", ["--space", "fbnet", "--on", "x", "--batch", "0"], "at least 1"),
    ],
)
def test_measurements_that_cannot_be_are_refused(
    rows: str, words: list[str], wrong: str, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = catalogue / "few.csv"
    file.write_text(rows)
    assert main(["calibrate", "--networks", str(file), *words]) == 2
    assert wrong in capsys.readouterr().err


def test_ten_networks_to_measure_first_are_a_file_to_fill_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--space", "fbnet"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "architecture,seconds"
    assert len(SPACES["fbnet"].codes(row.rstrip(",") for row in rows)) == 10


def test_a_space_has_the_interval_of_its_precision() -> None:
    words = {"runtime": "qnn", "precision": "int8"}
    every = sy.estimate("nb201:all", "snapdragon_8_gen_3", **words)
    one = sy.estimate(f"nb201:{every.architectures[0]}", "snapdragon_8_gen_3", **words)
    assert every.high_s[0] / every.latency_s[0] == pytest.approx(one.interval["latency_s"][1] / one.latency_s)
