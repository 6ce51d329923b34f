"""An engine that cuts no prompts has a budget that holds one beside its decodes, unless it was told another."""

from __future__ import annotations

import steelyard
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config, with_room
from steelyard.machine.catalogue import find_machine


def test_long_prompts_do_not_wait_until_no_one_decodes() -> None:
    asked = {"isl": 8192, "osl": 256, "concurrency": 8, "requests": 40, "engine": "trtllm"}
    found = steelyard.simulate("llama-3.1-8b", "h100_sxm", **asked)
    told = steelyard.simulate("llama-3.1-8b", "h100_sxm", **asked, flags={"max_num_tokens": 8192})
    assert told.config.max_num_batched_tokens == 8192 < found.config.max_num_batched_tokens
    assert found.records.queued_s.mean() < 0.5 * told.records.queued_s.mean()


def test_only_budgets_that_no_one_named_grow() -> None:
    machine = find_machine("h100_sxm")
    seats = int(find_engine("trtllm").max_sequences)
    for name, flags, longest, budget in (
        ("trtllm", {}, 100, 8192),
        ("trtllm", {}, 8192, 8192 + seats),
        ("trtllm", {"max_num_tokens": 4096}, 8192, 4096),
        ("vllm", {}, 50_000, 8192),
    ):
        engine = find_engine(name)
        config = engine_config(engine, machine, flags)
        assert with_room(config, engine, flags, longest).max_num_batched_tokens == budget, (name, flags)
