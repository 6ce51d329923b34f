"""Own or API: the bill of the traffic, rent, devices bought with their power, replicas that start on demand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.cost.money import Purchase, hourly_price
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.provenance import Ledger
from steelyard.report import plan as report
from steelyard.report.plan_page import page
from steelyard.search.answer import Answer
from steelyard.search.api import read_question
from steelyard.search.ways import Rule, on_demand, read_rule
from steelyard.traffic.trace import Trace

#: Two bursts of six requests, 40 minutes apart.
ARRIVED = np.concatenate([np.arange(6.0), 2400.0 + np.arange(6.0)])


def answer(**more: object) -> Answer:
    trace = Trace(ARRIVED, np.full(12, 1000), np.full(12, 100))
    return sy.plan("llama-3.1-8b", on="l40s", trace=trace, max_gpus=1, remedies=False, **more)


def test_replicas_are_paid_while_they_work_wait_and_start() -> None:
    at, ends = np.array([0.0, 100.0, 1000.0]), np.array([10.0, 110.0, 1010.0])
    found = on_demand(at, ends, 4.0, 1, Rule(50.0, 20.0))
    # three starts; each works 10 s, is kept for 50 s and takes 20 s to start
    assert found.starts == 3 and found.up_frac == pytest.approx(3 * (10 + 50 + 20) / 1010)
    assert found.cold_frac == 1.0 and found.starts_per_day == pytest.approx(3 * 86400 / 1010)
    kept = on_demand(at, ends, 4.0, 1, Rule(95.0, 20.0))  # the gap of 90 s is waited out
    assert kept.starts == 2 and kept.up_frac == pytest.approx((10 + 90 + 10 + 95 + 20 + 10 + 95 + 20) / 1010)
    assert kept.cold_frac == pytest.approx(2 / 3)
    assert on_demand(at, ends, 4.0, 1, Rule(1e6, 20.0)).up_frac == 1.0  # never more than around the clock


def test_each_replica_follows_the_requests_in_flight() -> None:
    at, ends = np.array([0.0, 1.0, 2.0, 3.0]), np.array([100.0, 11.0, 12.0, 13.0])
    found = on_demand(at, ends, 2.0, 4, Rule(0.0, 0.0))
    # one replica for 100 s; the second while three or four are in flight: from 2 s to 12 s
    assert found.starts == 2 and found.up_frac == pytest.approx((100 + 10) / 400)
    everything = on_demand(at, ends, 1.0, 4, Rule(0.0, 0.0))
    assert everything.starts == 4 and everything.up_frac == pytest.approx((100 + 10 + 10 + 10) / 400)
    assert on_demand(at, ends, 1.0, 2, Rule(0.0, 0.0)).starts == 2  # no more than there are


def test_the_bill_the_rent_and_the_break_even() -> None:
    found = answer(against="1/4", scale_to_zero="1min,start=30s")
    ways, winner, question = found.ways, found.winner, found.question
    assert ways is not None and winner is not None and winner.rent_usd_per_hour is not None
    assert ways.request_usd == pytest.approx((1000 * 1 + 100 * 4) / 1e6)
    assert ways.by_name["api"].usd_per_hour == pytest.approx(question.rate_per_s * 3600 * 0.0014)
    assert ways.break_even_per_s == pytest.approx(winner.rent_usd_per_hour / 3600 / 0.0014)
    assert [w.usd_per_hour for w in ways.ways] == sorted(w.usd_per_hour for w in ways.ways)
    assert ways.demand is not None and ways.demand.idle_frac > 0.98 and ways.demand.longest_idle_s > 2380
    assert ways.on_demand is not None and ways.on_demand.starts == 2 and ways.on_demand.start_s == 30
    rented, some = ways.by_name["rented"].usd_per_hour, ways.by_name["on demand"].usd_per_hour
    assert rented == winner.rent_usd_per_hour and some == pytest.approx(rented * ways.on_demand.up_frac)
    assert ways.on_demand.up_frac == pytest.approx(2 * 90 / 2400, rel=0.2)
    text, document, html = report.text(found), report.to_dict(found), page(found)
    assert "own or API" in text and "paid" in text and "cost by the mean rate" in html
    assert document["ways"]["on_demand"]["starts"] == 2
    assert "ways" not in report.to_dict(answer()) and question.inputs["against"] == "1/4"
    again = sy.plan(**{**question.inputs, "trace": Trace(ARRIVED, np.full(12, 1000), np.full(12, 100))})
    assert again.ways == ways


def test_weights_are_read_when_a_replica_starts() -> None:
    found = answer(scale_to_zero="1min").ways
    assert found is not None and found.on_demand is not None and "api" not in found.by_name
    assert found.on_demand.start_s == pytest.approx(60 + 16.06, rel=0.01)  # 8.03 G parameters of 2 bytes at 1 GB/s


def test_bought_devices_draw_power_and_last_for_years() -> None:
    three, one = answer(scale_to_zero="1min").ways, answer(scale_to_zero="1min", years=1, power_price=0.5).ways
    assert three is not None and one is not None
    capex, watts = find_machine("l40s").capex_usd, 0.0
    bought = three.by_name["bought"].usd_per_hour
    watts = (bought - capex / (3 * 8766)) / 0.1 * 1000
    assert 30 < watts < 1000
    assert one.by_name["bought"].usd_per_hour == pytest.approx(capex / 8766 + watts / 1000 * 0.5)
    assert three.use_frac is not None and 0 < three.use_frac < 1


def test_a_price_without_a_rental_counts_the_power() -> None:
    machine, ledger = find_machine("xeon_8480"), Ledger()
    found = hourly_price(machine, None, ledger)
    assert found.usd_per_hour == pytest.approx(machine.capex_usd / (3 * 8766) + machine.tdp_w / 1000 * 0.10)
    assert "power at 0.10 USD/kWh" in found.note and f"{machine.tdp_w:,.0f} W" in ledger.assumptions[0]
    assert hourly_price(machine, 2.0, ledger).usd_per_hour == 2.0
    assert Purchase(1, 0.0).usd_per_hour(8766, 1e6) == 1.0


@pytest.mark.parametrize("text", ["soon", "5min,start=x", "5min,5min", "5min,stop=3s", "-1s", "1e9"])
def test_words_of_a_rule_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="scale_to_zero"):
        read_rule(text)
    assert read_rule("5min,start=90s") == Rule(300.0, 90.0)


def test_hours_are_counted_from_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "day.csv"
    times = [*range(0, 3600, 60), *range(7200, 10800, 60), 14000]
    log.write_text("time,input_tokens,output_tokens\n" + "".join(f"{t},500,50\n" for t in times), encoding="utf-8")
    words = ["plan", "llama-3.1-8b", "--on", "l40s:1", "--trace", str(log), "--against", "100/100", "--json", "--quiet"]
    assert main(words) == 0
    demand = json.loads(capsys.readouterr().out)["ways"]["demand"]
    assert demand["hours"] == 4 and demand["hours_idle"] == 1 and demand["hours_below"] == 2


def test_without_an_slo_one_pool_is_planned_unless_two_are_asked_for() -> None:
    words = {"model": "llama-3.1-8b", "on": "l40s", "rate": "2/s"}
    assert read_question(words).task.question.modes == ("aggregated",)
    assert read_question({**words, "mode": "disaggregated"}).task.question.modes == ("disaggregated",)
    assert len(read_question({**words, "ttft": "p99:2s"}).task.question.modes) == 2
