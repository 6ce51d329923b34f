"""What of a training lies in the host's memory, and context parallelism by exchanged heads."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.report.train import shortfall
from steelyard.training.estimate import TrainEstimate

WORDS: dict[str, Any] = {"gbs": 64, "tp": 1, "pp": 1, "dp": 8, "mbs": 1, "framework": "deepspeed", "zero": 3}


def trained(offload: str = "", **words: Any) -> TrainEstimate:
    return sy.train("llama-3.1-8b", "a100_sxm:8", offload=offload, **{**WORDS, **words})


@pytest.mark.parametrize("part", ["optimizer", "parameters", "activations"])
def test_what_lies_elsewhere_is_not_held_and_takes_no_less_time(part: str) -> None:
    here, away = trained(), trained(part)
    named = {"parameters": "weights"}.get(part, part)
    assert away.stages[0].parts[named] < 0.5 * here.stages[0].parts[named]
    assert away.step_s >= here.step_s
    assert sum(away.breakdown_s.values()) == pytest.approx(away.step_s)
    assert any("memory of a" in text for text in away.ledger.assumptions)


def test_drives_are_slower_than_memory_and_the_host_updates_slower_than_the_device() -> None:
    here, host, drives = trained(), trained("optimizer"), trained("optimizer:nvme")
    assert here.breakdown_s["optimizer"] < host.breakdown_s["optimizer"] < drives.breakdown_s["optimizer"]


def test_short_layers_wait_for_their_parameters_and_long_ones_do_not() -> None:
    short, long = (trained("parameters", zero=0, seq=s).breakdown_s["offload"] for s in (128, 8192))
    assert short > long == 0.0


def test_nothing_that_does_not_fit_is_told_of_the_host() -> None:
    found = sy.train("llama-3.1-8b", "a100_sxm", **{**WORDS, "dp": 1, "gbs": 4, "zero": 0, "recompute": "full"})
    from steelyard.report.train import remedy

    assert not found.fits
    assert "--offload optimizer" in remedy(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"offload": "optimiser"}, "did you mean 'optimizer'"),
        ({"offload": "activations:nvme"}, "too slow"),
        ({"offload": "optimizer:tape"}, "optimizer:nvme"),
        ({"offload": "optimizer,optimizer:nvme"}, "once"),
        ({"cp": 4, "ring": 3, "dp": 2}, "does not divide cp 4; nearest is 2"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(**words)


def test_exchanged_heads_send_less_than_a_ring_where_ranks_are_many() -> None:
    words: dict[str, Any] = {"gbs": 8, "seq": 16384, "cp": 8, "tp": 1, "pp": 1, "mbs": 1, "framework": "megatron"}

    def heads(ring: int | None) -> TrainEstimate:
        return sy.train("llama-2-7b", "h100_sxm:8", ring=ring, set="cp_exposed=1", recompute="full", **words)

    ring, some, none = heads(None), heads(2), heads(1)
    assert ring.breakdown_s["cp"] > some.breakdown_s["cp"] > none.breakdown_s["cp"] > 0.0
    assert heads(8).step_s == pytest.approx(ring.step_s)
    assert ring.scenario.plan.around == 8


def test_trainings_of_a_search_are_paid_one_by_one() -> None:
    one, many = (trained(tokens="1B", failures="none", trainings=n) for n in (1, 20))
    assert one.run is not None and many.run is not None
    assert many.run.steps == 20 * one.run.steps


def test_what_lies_elsewhere_needs_room_there() -> None:
    asked = {"task": "sft", "framework": "deepspeed", "tp": 1, "pp": 1, "mbs": 1, "recompute": "full", "loss": "fused"}
    asked |= {"offload": "optimizer,parameters"}
    small, large = (sy.train("qwen3-8b", "rtx_4090", host=f"ddr5-5600x2:{x}GB", **asked) for x in (64, 192))  # type: ignore[arg-type]
    assert not small.fits
    assert large.fits
    parameters = small.scenario.parameters
    assert small.stages[0].host_bytes == pytest.approx(
        parameters * (2 + 4 + 12), rel=0.01
    )  # weights, gradients, states
    assert "of the host's memory" in shortfall(small)


def test_nothing_goes_to_the_host_where_it_fits_on_the_devices() -> None:
    near, far = (sy.train("llama-3.1-70b", f"h100_sxm:{n}", gbs=64, seq=4096) for n in (8, 64))
    assert (near.scenario.plan.offload, far.scenario.plan.offload) == (("optimizer",), ())
    assert near.fits
    assert far.fits


def test_contexts_exchange_heads_only_where_the_framework_offers_it() -> None:
    words = {"model": "llama-3.1-8b", "on": "h100_sxm:8", "gbs": 8, "seq": 131072, "tp": 1, "cp": 8}
    ours = {
        name: sy.train(**words, framework=name).scenario.plan.around for name in ("megatron", "torchtitan", "deepspeed")
    }  # type: ignore[arg-type]
    assert ours["torchtitan"] == 8
    assert ours["deepspeed"] == 1
    assert ours["megatron"] in (1, 8)
