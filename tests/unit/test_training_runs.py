"""Failures, checkpoints and whole runs: rates as text, closed forms against runs drawn by chance, invariants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.deployment.failures import NEVER, Measured, failing_clusters, parse_failures, typical_failures
from steelyard.deployment.recovery import (
    USUAL,
    Checkpoint,
    CheckpointRule,
    Recovery,
    parse_checkpoint,
    parse_recovery,
    parse_spares,
)
from steelyard.errors import InputError
from steelyard.report.train import report, to_dict
from steelyard.training.failure_runs import draw_runs
from steelyard.training.reliability import best_interval_s, daly_interval_s, effective, young_interval_s
from steelyard.training.run import Job, Prices, Run, run_of
from steelyard.training.stragglers import coded_factor, slowest_factor

DAY_S, HOUR_S = 86400.0, 3600.0
#: 16,384 devices.
LARGE: dict[str, Any] = {"nodes": 2048, "devices": 16384, "replicas": 128}
SAVES = {"waits": Checkpoint(60.0), "behind": Checkpoint(5.0, 120.0), "seldom": Checkpoint(30.0, 60.0, HOUR_S)}
RECOVERIES = {
    "any node": USUAL,
    "slow": Recovery(detect_s=300, restart_s=1800),
    "few spares": Recovery(spares=4, repair_s=43200),
    "spares": Recovery(spares=20),
    "elastic": Recovery(spares=2, elastic=True),
}
FAILS = ["3.8/1000node-day", "llama3, reclaim:2/1000node-day", "llama3, silent:0.5/1000node-day"]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("3.8/1000node-day", 24 / (3.8e-3 * 2048)),
        ("1/50700gpu-h", 50700 / 16384),
        ("2/job-week", 84),
        ("hw:1/1k node-days, sw:1/job-day", 24 / 3.048),
        ("none", math.inf),
    ],
)
def test_rates_are_read_as_they_are_said(text: str, hours: float) -> None:
    found = float(parse_failures(text).mtbf_s(2048, 16384))
    assert found / HOUR_S == pytest.approx(hours) if math.isfinite(hours) else math.isinf(found)


def test_clusters_fail_as_often_as_their_papers_say() -> None:
    """RSC-1 by its nodes alone as the paper projects it; Llama 3 as its 419 interruptions in 54 days."""
    rsc = parse_failures("rsc-1:hardware")
    assert rsc.mtbf_s([2048, 16384], [16384, 131072]) / HOUR_S == pytest.approx([1.8, 0.23], rel=0.03)
    assert parse_failures("rsc-1").mtbf_s([1, 128], [8, 1024]) / HOUR_S == pytest.approx([1144.8, 7.9], rel=0.1)
    llama = float(parse_failures("llama3").mtbf_s(2048, 16384))
    assert 54 * DAY_S / llama == pytest.approx(419, rel=0.005)


def test_a_cluster_nobody_measured_is_the_mean_of_the_others_with_room_for_them() -> None:
    for name, cluster in failing_clusters().items():
        others = typical_failures(without=name)
        ratio = cluster.hardware.per_1000_node_days / (others.rates[0].per_s * DAY_S * 1000)
        assert abs(math.log(ratio)) < 1.2816 * others.spread


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3.8", "expected a rate such as"),
        ("lama3", "did you mean 'llama3'"),
        ("x:1/node-day", "known: hardware, software"),
        ("1/noed-day", "did you mean 'node'"),
        ("1/node-dya", "did you mean 'day'"),
        ("1/0node-day", "expected a rate"),
        ("llama3, restrt=3min", "did you mean 'restart'"),
        ("llama3, restart=soon", "expected a number in s"),
        ("", "expected a rate"),
    ],
)
def test_what_is_no_rate_is_refused_in_one_message(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        parse_recovery(text) if text else parse_failures(text)
    assert error.value.field.startswith("failures")


def test_what_comes_after_a_failure_stands_beside_it() -> None:
    failures, recovery = parse_recovery("rsc-2, restart=6min, elastic")
    assert failures.rates == parse_failures("rsc-2").rates
    assert (recovery.restart_s, recovery.elastic, recovery.spares) == (360.0, True, 0)
    assert parse_recovery("restart=1h")[0] == NEVER
    rule = parse_checkpoint("30min, sync, storage=2TB/s")
    assert (rule.interval_s, rule.waits, rule.storage_bytes_per_s) == (1800.0, True, 2e12)
    assert (parse_spares("2%", 2048), parse_spares(8, 2048), parse_spares("", 1)) == (41, 8, None)
    with pytest.raises(InputError, match="did you mean 'async'"):
        parse_checkpoint("asinc")
    with pytest.raises(InputError, match="expected nodes"):
        parse_spares("-1", 10)


def test_checkpoints_take_what_their_bytes_do() -> None:
    waits = CheckpointRule(waits=True).checkpoint(1e13, nodes=1000, writers=8000)
    behind = CheckpointRule().checkpoint(1e13, nodes=1000, writers=8000)
    assert (waits.stall_s, waits.late_s) == (pytest.approx(10.05), 0.0)
    assert (behind.stall_s, behind.late_s) == (pytest.approx(0.05), pytest.approx(10.0))


@pytest.mark.parametrize("mtbf_s", [HOUR_S, 10 * HOUR_S, 1000 * HOUR_S])
@pytest.mark.parametrize("stall_s", [1.0, 30.0, 600.0])
def test_the_best_interval_is_the_best(stall_s: float, mtbf_s: float) -> None:
    best = float(best_interval_s(stall_s, mtbf_s))

    def cost(tau: float) -> float:
        return math.expm1((tau + stall_s) / mtbf_s) / tau

    assert cost(best) <= min(cost(best * f) for f in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))
    assert float(daly_interval_s(stall_s, mtbf_s)) == pytest.approx(best, rel=0.04)
    if stall_s < mtbf_s / 1000:
        assert float(young_interval_s(stall_s, mtbf_s)) == pytest.approx(best, rel=0.05)
    assert math.isinf(float(best_interval_s(stall_s, math.inf)))


def test_one_source_is_dalys_complete_model() -> None:
    failures, save = parse_failures("3.8/1000node-day"), Checkpoint(60.0)
    found = effective(failures, save, Recovery(detect_s=0, restart_s=600), **LARGE)
    m, tau = float(found.mtbf_s), float(found.interval_s)
    assert float(found.ettr_frac) == pytest.approx(tau / (m * math.exp(600 / m) * math.expm1((tau + 60) / m)))


@pytest.mark.parametrize("text", FAILS)
@pytest.mark.parametrize("recovery", list(RECOVERIES))
@pytest.mark.parametrize("save", list(SAVES))
def test_the_closed_form_is_the_mean_of_runs_drawn_by_chance(text: str, recovery: str, save: str) -> None:
    failures = parse_failures(text)
    asked = failures, SAVES[save], RECOVERIES[recovery]
    found = effective(*asked, **LARGE)
    runs = draw_runs(*asked, work_s=200 * DAY_S, runs=300, seed=3, **LARGE)
    assert float(found.ettr_frac) == pytest.approx(runs.ettr_frac, rel=0.005)
    shares = [found.ettr_frac, found.saving_frac, found.lost_frac, found.down_frac, found.waiting_frac]
    assert float(sum(shares) + found.silent_frac) == pytest.approx(1.0)
    whole = runs.wall_s.sum()
    assert float(found.lost_frac) == pytest.approx(runs.lost_s.sum() / whole, abs=0.01)
    if "silent" not in text:
        assert float(found.interruptions_per_s) == pytest.approx(runs.interruptions.sum() / whole, rel=0.02)


@pytest.mark.parametrize("recovery", ["any node", "few spares", "elastic"])
@pytest.mark.parametrize("text", [FAILS[0], FAILS[2]])
def test_work_is_conserved_whatever_happens(text: str, recovery: str) -> None:
    asked = parse_failures(text), SAVES["behind"], RECOVERIES[recovery]
    runs = draw_runs(*asked, work_s=20 * DAY_S, runs=50, **LARGE)
    slower = runs.slower_s
    assert np.all(slower >= -1e-3)
    if recovery != "elastic":
        assert slower == pytest.approx(np.zeros(50), abs=1e-3)
    again = draw_runs(*asked, work_s=20 * DAY_S, runs=50, **LARGE)
    assert np.array_equal(runs.wall_s, again.wall_s)


def test_without_failures_a_run_is_ideal() -> None:
    found = effective(NEVER, Checkpoint(60.0), **LARGE)
    assert (float(found.ettr_frac), float(found.interval_s)) == (1.0, math.inf)
    runs = draw_runs(NEVER, Checkpoint(60.0), work_s=DAY_S, runs=3, **LARGE)
    assert np.array_equal(runs.wall_s, np.full(3, DAY_S))
    given = effective(NEVER, Checkpoint(60.0, 0.0, 540.0), **LARGE)
    assert float(given.ettr_frac) == pytest.approx(0.9)


def test_more_of_what_helps_never_costs_time() -> None:
    failures, save = parse_failures("llama3"), SAVES["behind"]
    sizes = np.array([8, 128, 1024, 8192])
    shares = effective(failures, save, nodes=sizes, devices=8 * sizes).ettr_frac
    assert np.all(np.diff(shares) < 0)
    spares = [float(effective(failures, save, Recovery(spares=n), **LARGE).ettr_frac) for n in (0, 2, 4, 8, 16, 64)]
    assert np.all(np.diff(spares) >= 0)
    elastic = [
        float(effective(failures, save, Recovery(spares=n, elastic=True), **LARGE).ettr_frac) for n in (0, 2, 4, 16, 64)
    ]
    assert elastic[0] > spares[0]
    assert elastic[-1] == pytest.approx(spares[-1], rel=1e-6)
    noticed = effective(parse_failures("reclaim:0.1/node-day"), save, Recovery(notice_s=150), **LARGE)
    sudden = effective(parse_failures("reclaim:0.1/node-day"), save, Recovery(notice_s=60), **LARGE)
    assert noticed.ettr_frac > sudden.ettr_frac


@pytest.mark.parametrize(
    ("text", "recovery"),
    [
        ("silent:5/node-day", USUAL),
        ("5/node-day", Recovery(repair_s=2 * HOUR_S, spares=1)),
        ("5/node-day", Recovery(repair_s=2 * HOUR_S, spares=0, elastic=True)),
    ],
)
def test_hard_places_have_their_closed_form_too(text: str, recovery: Recovery) -> None:
    asked = parse_failures(text), SAVES["behind"], recovery
    size: dict[str, Any] = {"nodes": 8, "devices": 64, "replicas": 8}
    found = float(effective(*asked, **size).ettr_frac)
    assert 0 < found < 1
    runs = draw_runs(*asked, work_s=20 * DAY_S, runs=200, **size)
    assert found == pytest.approx(runs.ettr_frac, rel=0.05)


def test_a_run_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="at most 50,000,000 interruptions"):
        draw_runs(parse_failures("llama3"), Checkpoint(1.0), work_s=1e18, runs=1, **LARGE)


def test_a_job_that_never_gets_on_is_refused() -> None:
    with pytest.raises(InputError, match="hardly gets on"):
        draw_runs(parse_failures("1/node-h"), Checkpoint(60.0), work_s=DAY_S, **LARGE)


@pytest.mark.parametrize(("n", "spared"), [(1, 0), (2, 0), (8, 0), (64, 0), (8, 2), (64, 3)])
def test_the_slowest_rank_is_that_of_many_draws(n: int, spared: int) -> None:
    rng = np.random.default_rng(0)
    normal = np.sort(1.0 + 0.1 * rng.standard_normal((100_000, n)), axis=1)[:, n - 1 - spared].mean()
    assert float(slowest_factor(n, 0.1, spared=spared)) == pytest.approx(normal, abs=1e-3)
    tail = np.sort(0.6 + 0.4 * rng.standard_exponential((100_000, n)), axis=1)[:, n - 1 - spared].mean()
    assert float(slowest_factor(n, 0.4, spared=spared, shape="exponential")) == pytest.approx(tail, rel=0.01)


def test_codes_pay_where_tails_are_long() -> None:
    assert coded_factor(1000, 0.9, spared=1) < slowest_factor(1000, 0.9, shape="exponential")
    assert coded_factor(10, 0.1, spared=1) > slowest_factor(10, 0.1, shape="exponential")
    slow = slowest_factor([1, 100], 0.0, slow_frac=0.01, slow_factor=1.5)
    assert slow == pytest.approx([1.005, 1 + 0.5 * (1 - 0.99**100)])
    assert float(slowest_factor(100, 0.0, spared=5, slow_frac=0.01, slow_factor=1.5)) < 1.001


def run(text: str = "llama3", **changes: Any) -> Run:
    failures, recovery = parse_recovery(text)
    words: dict[str, Any] = {
        "step_s": (9.0, 8.4, 9.6),
        "job": Job(16384, 2048, 405e9 * 14, 128),
        "tokens": 15.6e12,
        "tokens_per_step": 16e6,
        "failures": failures,
        "recovery": recovery,
        "prices": Prices(2.5, power_w=2e7, carbon_g_per_kwh=400.0),
        **changes,
    }
    return run_of(**words)


def test_a_run_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="hardly gets on"):
        run("1e9/1000node-day")


def test_a_run_is_steps_over_the_effective_share() -> None:
    found = run()
    assert found.steps == 975_000
    assert found.ideal_days == pytest.approx(975_000 * 9 / DAY_S)
    assert found.days["p10"] < found.days["p50"] < found.days["p90"]
    assert found.days["p50"] == pytest.approx(found.ideal_days / found.ettr_frac, rel=0.01)
    assert found.interruptions == pytest.approx(found.days["p50"] * 7.79, rel=0.05)
    assert found.usd is not None
    assert found.usd["p50"] == pytest.approx(found.days["p50"] * 24 * 16384 * 2.5)
    assert found.kwh["p50"] < found.days["p50"] * 24 * 2e4
    assert found.checkpoint_interval_s % 9.0 == 0
    assert found.chance_by(found.days["p90"]) == pytest.approx(0.9, abs=0.01)
    assert found.chance_within(found.usd["p10"]) == pytest.approx(0.1, abs=0.01)


def test_a_run_without_failures_is_ideal_and_one_of_a_strange_cluster_less_certain() -> None:
    never = run("none", step_s=(9.0, 9.0, 9.0))
    assert never.days["p10"] == never.days["p90"] == never.ideal_days
    assert (never.interruptions, never.to_dict()["checkpoint_interval_s"]) == (0.0, None)
    known, strange = run("3.85/1000node-day").days, run("typical").days
    assert strange["p90"] / strange["p10"] > known["p90"] / known["p10"]


def test_spares_are_paid_draw_idle_power_and_a_cheap_node_that_goes_away_costs_time() -> None:
    spared = run("llama3", recovery=Recovery(spares=41))
    plain = run("llama3")
    assert spared.usd_per_day is not None
    assert plain.usd_per_day is not None
    assert spared.usd_per_day == pytest.approx(plain.usd_per_day * (2048 + 41) / 2048)
    more = run("none", recovery=Recovery(spares=41)).kwh_per_day / run("none").kwh_per_day
    assert more == pytest.approx(1 + 0.35 * 41 / 2048)
    assert run("llama3, reclaim:0.02/node-day").days["p50"] > plain.days["p50"]


def test_a_run_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="tokens: expected a number above 0"):
        run(tokens=0)


def test_the_verb_tells_the_run_that_its_words_ask_for() -> None:
    words: dict[str, Any] = {"gbs": 1024, "tp": 8, "pp": 4, "recompute": "full"}
    words |= {"samples": 2**28, "epochs": 2, "failures": "llama3"}
    found = sy.train("llama-3.1-70b", "h100_sxm:1024", **words, by="400d", budget="40Musd", carbon=300)
    assert found.run is not None
    assert found.run.tokens == 2**29 * 4096
    assert found.run.ideal_days == pytest.approx(2**29 * 4096 / found.tokens_per_s / DAY_S, rel=1e-3)
    assert found.run.checkpoint_bytes == pytest.approx(70.6e9 * 14, rel=0.01)
    told = to_dict(found)["run"]
    assert told["days"]["p10"] < told["days"]["p50"] < told["days"]["p90"]
    assert 0 < told["chance_by"] <= 1
    assert told["kgco2"]["p50"] == pytest.approx(told["kwh"]["p50"] * 0.3)
    assert "effective" in report(found, 100)
    assert sy.train("llama-3.1-70b", "h100_sxm:1024", gbs=1024, tp=8, pp=4).run is None
    slower = sy.train("llama-3.1-70b", "h100_sxm:1024", **words, jitter=0.05).run
    ideal = sy.train("llama-3.1-70b", "h100_sxm:1024", **words).run
    assert slower is not None
    assert ideal is not None
    assert slower.days["p50"] > 1.05 * ideal.days["p50"]


def test_words_of_a_run_without_a_length_are_refused() -> None:
    with pytest.raises(InputError, match="tokens: expected the tokens of the run"):
        sy.train("llama-3.1-8b", "h100_sxm:8", failures="llama3")
    with pytest.raises(InputError, match=r"tokens: .*got 'lots'.*failures: .*'llama3'"):
        sy.train("llama-3.1-8b", "h100_sxm:8", tokens="lots", failures="lama3")


def test_a_thing_fails_at_one_rate() -> None:
    with pytest.raises(InputError, match="got both"):
        Measured("mine", per_1000_node_days=3.0, per_job_day=1.0)
