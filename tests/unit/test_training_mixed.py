"""Training on devices of several kinds: sequences or layers by speed, memory of each, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.machine.cluster import Mixed, asks_again, mixed_cluster
from steelyard.scenario.training import read_train_scenario
from steelyard.training import mixed_stages
from steelyard.training.estimate import TrainEstimate, answer_train
from steelyard.training.mixed import dealt
from steelyard.training.mixed_stages import shared_out

MODEL, FAST, SLOW = "llama-3.1-8b", "h100_sxm", "a100_sxm"
LAYOUT = {"gbs": 256, "seq": 8192, "tp": 2, "mbs": 1, "framework": "megatron"}


def trained(on: object, **words: object) -> TrainEstimate:
    return sy.train(MODEL, on, **{**LAYOUT, "pp": 1, **words})  # type: ignore[arg-type]


def twins(across: str, **words: object) -> TrainEstimate:
    """Two kinds of devices that differ in their names alone."""
    scenario = read_train_scenario({"model": MODEL, "on": f"{FAST}:16+{SLOW}:16", "across": across, **LAYOUT, **words})
    cluster = scenario.cluster
    assert isinstance(cluster, Mixed)
    first = cluster.kinds[0]
    kinds = (first, replace(first, machine=replace(first.machine, name="twin")))
    of = tuple(replace(scenario.of[0], cluster=kind) for kind in kinds)  # type: ignore[attr-defined]
    return answer_train(replace(scenario, cluster=replace(cluster, of=kinds), of=of))  # type: ignore[call-arg]


def test_a_plus_joins_clusters_and_is_asked_again() -> None:
    cluster = mixed_cluster(f"{FAST}:64+{SLOW}:16")
    assert (str(cluster), cluster.count, cluster.node_count) == (f"{FAST}:64+{SLOW}:16", 80, 10)
    assert asks_again(cluster) == str(cluster)
    assert str(mixed_cluster(f"{FAST}:64+{FAST}:16")) == f"{FAST}:80"
    with pytest.raises(InputError, match="at most 4 kinds"):
        mixed_cluster("h100_sxm+a100_sxm+b200_sxm+h200_sxm+l40s")


def test_two_equal_kinds_are_one_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert twins("stages", pp=4).step_s < trained(f"{FAST}:32", pp=4).step_s  # the stage of the head has fewer layers
    monkeypatch.setattr(
        mixed_stages, "shared_out", lambda one, rest, room, depth: np.full(len(room), depth / len(room))
    )
    for across, words in (("replicas", {"pp": 1}), ("stages", {"pp": 4})):
        both, one = twins(across, **words), trained(f"{FAST}:32", **words)
        assert both.step_s == pytest.approx(one.step_s, rel=0.02), across
        assert both.mfu_frac == pytest.approx(one.mfu_frac, rel=0.02)
        assert both.energy_j == pytest.approx(one.energy_j, rel=0.02)
        assert len({k.plan.gbs for k in both.kinds}) == len({k.layers for k in both.kinds}) == 1
        held = (both.kinds[0].stages[0].reserved_bytes, one.stages[0].reserved_bytes)
        if across == "stages":
            assert held[0] == pytest.approx(held[1], rel=0.01)
        else:  # states are cut over the replicas of a kind alone
            assert held[0] > held[1]


def test_the_faster_kind_takes_more_and_both_together_beat_each_alone() -> None:
    fast, slow, both = (trained(on) for on in (f"{FAST}:16", f"{SLOW}:16", f"{FAST}:16+{SLOW}:16"))
    many, few = both.kinds
    assert many.plan.gbs + few.plan.gbs == 256
    assert many.plan.gbs > few.plan.gbs
    assert fast.tokens_per_s < both.tokens_per_s < fast.tokens_per_s + slow.tokens_per_s
    assert max(k.busy_s for k in both.kinds) <= both.step_s
    assert both.step_s == pytest.approx(sum(both.breakdown_s.values()))
    equal = trained(f"{FAST}:16+{SLOW}:16", shares="equal")
    assert equal.step_s > both.step_s
    assert [k.plan.gbs for k in trained(f"{FAST}:16+{SLOW}:16", shares="192/64").kinds] == [192, 64]
    more = trained(f"{FAST}:24+{SLOW}:16", gbs=264)
    assert more.tokens_per_s > both.tokens_per_s


def test_money_and_power_are_of_each_kind() -> None:
    fast, slow, both = (trained(on, tokens="1T") for on in (f"{FAST}:16", f"{SLOW}:16", f"{FAST}:16+{SLOW}:16"))
    assert both.usd_per_device_hour == pytest.approx((fast.usd_per_device_hour + slow.usd_per_device_hour) / 2)
    assert both.run.usd["p50"] == pytest.approx(both.run.days["p50"] * 24 * 32 * both.usd_per_device_hour, rel=1e-6)
    document = both.to_dict()
    assert [k["machine"] for k in document["kinds"]] == [FAST, SLOW]
    assert document["across"] == "replicas"
    assert sum(k["energy_j"] for k in document["kinds"]) == pytest.approx(both.energy_j)
    again = sy.train(**document["provenance"]["inputs"])
    assert again.step_s == both.step_s


def test_layers_go_to_the_faster_stages_as_far_as_they_fit() -> None:
    both = trained(f"{FAST}:16+{SLOW}:16", pp=4, across="stages")
    fast, slow = both.kinds
    assert fast.layers + slow.layers == 32
    assert fast.layers > slow.layers
    assert both.step_s == pytest.approx(sum(both.breakdown_s.values()))
    assert both.step_s >= both.limit_s
    found = shared_out(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0.5, 0.0, 0.0, 2.0]), np.full(4, 40.0), 32)
    assert found.sum() == 32
    assert (np.array([0.5, 0.0, 0.0, 2.0]) + found * [1, 1, 3, 3]).max() <= 13.0
    tight = shared_out(np.array([1.0, 1.0, 3.0, 3.0]), np.zeros(4), np.array([6.0, 10.0, 40.0, 40.0]), 32)
    assert tight[0] <= 6 and tight[1] <= 10 and tight.sum() == 32


def test_a_deal_is_the_best_of_all() -> None:
    times = [lambda n: 1.0 + 2.0 * n, lambda n: 0.5 + 5.0 * n]
    units, total = [8, 12], 400
    found = dealt(times, units, total)
    every = [(n, (total - 8 * n) // 12) for n in range(1, 49) if (total - 8 * n) % 12 == 0 and total - 8 * n > 0]
    best = min(max(float(t(k)) for t, k in zip(times, pair, strict=True)) for pair in every)
    assert sum(n * u for n, u in zip(found, units, strict=True)) == total
    assert max(float(t(n)) for t, n in zip(times, found, strict=True)) == best
    with pytest.raises(InputError, match="nearest is 404"):
        dealt(times, units, 403)


@pytest.mark.parametrize(
    ("on", "words", "field", "said"),
    [
        (f"{FAST}:16+{SLOW}:16", {"dp": 4}, "dp", "leave dp out"),
        (f"{FAST}:16+{SLOW}:16", {"task": "grpo", "gbs": None}, "on", "several kinds"),
        (f"{FAST}:16+{SLOW}:16", {"shares": "200/57"}, "shares", "257 sequences"),
        (f"{FAST}:16+{SLOW}:16", {"across": "stages", "shares": "equal"}, "shares", "by speed"),
        (f"{FAST}:16+{SLOW}:16", {"across": "stages", "pp": 3}, "across", "no degrees"),
        (f"{FAST}:16", {"across": "stages"}, "across", "several kinds"),
        (f"{FAST}:16+a100_smx:16", {}, "on", "a100_sxm"),
    ],
)
def test_what_is_not_modelled_is_refused(on: str, words: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        trained(on, **words)
    assert said in {p.field: p.message for p in error.value.problems}[field]


def test_a_plan_weighs_them_beside_single_kinds() -> None:
    plan = sy.plan_training(MODEL, f"{FAST}:16+{SLOW}:16,{SLOW}:16", gbs=256, seq=8192, tokens="100B", objective="time")
    assert str(plan.winner.scenario.cluster) == f"{FAST}:16+{SLOW}:16"
    assert {r.scenario.cluster.count for r in plan.rows} >= {16, 32}


def test_the_page_shows_what_is_not_launched() -> None:
    from steelyard.page.screens.train import ask

    several = ask(
        {"model": MODEL, "on": f"{FAST}:16+{SLOW}:16", "across": "replicas", **LAYOUT, "pp": 1}, lambda *_: None
    )
    assert f"{SLOW}:16: tp 2, dp 8" in several.view["how"]
    assert not several.files
    assert not ask({"model": "resnet18", "on": FAST, "gbs": 64}, lambda *_: None).files
