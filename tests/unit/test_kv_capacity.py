"""The KV cache that an engine says it has at start-up, against published starts and the measured tables."""

from __future__ import annotations

import csv
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard.cost.encode import start_up_bytes
from steelyard.cost.kv_pages import Printed, pages_of
from steelyard.cost.kv_pool import blocks_for, engine_prints, kv_pool
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.deployment.plan import Plan
from steelyard.errors import DoesNotFit, UnknownName
from steelyard.machine.catalogue import find_machine
from steelyard.workload.catalogue import load_model
from steelyard.workload.kept import kept_by_layers

GIB = 2**30


def prints(model: str, on: str, flags: dict[str, Any], engine: str = "vllm", tp: int = 1, **plan: Any) -> Printed:
    loaded, machine, found = load_model(model), find_machine(on), find_engine(engine)
    resolved = Plan(tp=tp, **plan).resolved(loaded.transformer, machine)
    config = engine_config(found, machine, flags, loaded.transformer)
    return engine_prints(loaded.transformer, resolved, machine, found, config)


@pytest.mark.parametrize(
    ("tokens", "budget", "published"), [(20_000, 20_000, 31_232), (29_000, 29_000, 23_648), (35_000, 512, 47_700)]
)
def test_a_long_step_leaves_less(tokens: int, budget: int, published: int) -> None:
    """Llama-3.1-8B on an RTX 3090: a step's tensors of 20,000 tokens take 108 KiB each."""
    flags = {"gpu_memory_utilization": 0.9, "max_model_len": tokens, "max_num_batched_tokens": budget}
    found = prints("llama-3.1-8b", "rtx_3090", flags, "vllm@0.6")
    assert found.tokens == pytest.approx(published, rel=0.1)
    assert found.low <= published <= found.high


def test_published_starts() -> None:
    flags = {"gpu_memory_utilization": 0.65, "max_model_len": 131_072}
    assert prints("gpt-oss-20b", "a100_sxm", flags).memory_bytes == pytest.approx(36.56 * GIB, rel=0.05)
    flags = {"gpu_memory_utilization": 0.9, "max_num_batched_tokens": 32_768}
    assert prints("qwen1.5-7b", "rtx_3090", flags, weights="gptq").tokens == pytest.approx(24_320, rel=0.1)


@pytest.mark.parametrize(
    ("model", "on", "engine", "tp", "flags", "plan", "memory_gib"),
    [
        # vllm-project/vllm, issue 21348: 178,880 tokens on vLLM 0.9, 367,404 on SGLang
        ("qwen3-235b-a22b", "h100_sxm", "vllm@0.9.2", 4, {"gpu_memory_utilization": 0.9}, {"weights": "fp8"}, 8.11),
        ("qwen3-235b-a22b", "h100_sxm", "sglang", 4, {"mem_fraction_static": 0.93}, {"weights": "fp8"}, 16.46),
        # issue 23278 (0.10.1) and 27508 (0.11.0): sampling of 1,024 requests leaves gpt-oss-120b nothing, or little
        ("gpt-oss-120b", "h100_sxm", "vllm@0.10.1", 1, {"gpu_memory_utilization": 0.9}, {}, -2.14),
        (
            "gpt-oss-120b",
            "h100_sxm",
            "vllm@0.11.0",
            1,
            {"gpu_memory_utilization": 0.95, "max_num_batched_tokens": 1024},
            {},
            1.71,
        ),
        # pull request 10511 (0.6.4): one and two H100
        ("llama-3-8b", "h100_sxm", "vllm@0.6.4", 1, {"gpu_memory_utilization": 0.9}, {}, 53.29),
        ("llama-3-8b", "h100_sxm", "vllm@0.6.4", 2, {"gpu_memory_utilization": 0.9}, {}, 58.97),
        # issue 13061 (0.7): Qwen2.5 14B on two RTX 4090, prompts of a long context are cut
        (
            "qwen2.5-14b",
            "rtx_4090",
            "vllm@0.7",
            2,
            {"gpu_memory_utilization": 0.98, "max_model_len": 131_072},
            {},
            8.69,
        ),
    ],
)
def test_published_starts_by_release(
    model: str, on: str, engine: str, tp: int, flags: dict[str, Any], plan: dict[str, str], memory_gib: float
) -> None:
    found = prints(model, on, flags, engine, tp, **plan)
    assert found.memory_bytes / GIB == pytest.approx(memory_gib, rel=0.05, abs=0.4)


def test_towers_run_before_the_cache_is_sized() -> None:
    """Qwen3.6-35B-A3B in NVFP4 on an RTX 5090 (noonghunna/club-3090, issue 612): 5.98 GiB, 567,978 tokens."""
    flags = {"max_model_len": 131_072, "max_num_seqs": 1, "max_num_batched_tokens": 8192, "enable_prefix_caching": True}
    found = prints("qwen3.6-35b-a3b", "rtx_5090", flags, weights="nvfp4", kv="fp8")
    assert found.memory_bytes / GIB == pytest.approx(5.98, rel=0.1)
    assert found.tokens == pytest.approx(567_978, rel=0.1)
    model, machine = load_model("qwen3.6-27b").transformer, find_machine("h100_sxm")
    plan = Plan().resolved(model, machine)
    largest = 16_384 * 4  # positions of the largest image, four to a token
    assert start_up_bytes(model, plan, machine, 2048) == (
        largest * (3 * 1152 + 2 * 4304) * 2.0,
        16_384 * model.hidden * 2.0,
    )
    gemma = load_model("gemma-3-12b").transformer  # 256 tokens an image: as many as the step holds
    one, eight = (start_up_bytes(gemma, Plan().resolved(gemma, machine), machine, n)[0] for n in (256, 2048))
    assert eight == 8 * one > 0
    text = load_model("qwen3-8b").transformer
    assert start_up_bytes(text, Plan().resolved(text, machine), machine, 2048) == (0.0, 0.0)
    assert (
        prints("gemma-3-12b", "h100_sxm", {}, "sglang").memory_bytes
        > prints("gemma-3-12b", "h100_sxm", {}).memory_bytes
    )


def test_windows_on_sglang() -> None:
    """A pool of 0.8 tokens for each of the others, of the types it has one for; else every token in every layer."""
    layer = 2 * 8 * 64 * 2.0  # gpt-oss-20b: 12 layers of each kind
    engine, machine = find_engine("sglang"), find_machine("h100_sxm")

    def each(name: str) -> float:
        model = load_model(name).transformer
        config = engine_config(engine, machine, {}, model)
        pool = kv_pool(model, Plan().resolved(model, machine), machine, engine, config)
        assert pool.fixed_blocks == 0
        found = prints(name, "h100_sxm", {}, "sglang")
        assert found.tokens == pytest.approx(pool.tokens, abs=1)
        return pool.block_bytes

    assert each("gpt-oss-20b") == pytest.approx(12 * layer * 1.8)
    gemma = load_model("gemma-3-12b").transformer
    whole = sum(x.count * 2 * x.attention.kv_heads * x.attention.head_dim * 2.0 for x in gemma.layers if x.attention)
    assert each("gemma-3-12b") == pytest.approx(whole)
    use = sy.estimate("gemma-3-12b", on="h100_sxm", engine="sglang", isl=20_000, osl=480, batch=4)
    assert float(use.memory.kv_cache) == pytest.approx(4 * 20_480 * whole)
    fewer = sy.estimate("gemma-3-12b", on="h100_sxm", isl=20_000, osl=480, batch=4)
    assert float(fewer.memory.kv_cache) < 0.5 * float(use.memory.kv_cache)


def test_an_engine_of_2023_profiles_the_whole_context() -> None:
    """vLLM 0.2.7 ran out of memory with Mixtral in AWQ on two A10 (issue 2382): 32,768 tokens, eight partial sums."""
    assert prints("mixtral-8x7b", "a10g", {}, "vllm@0.2.7", 2, weights="awq").memory_bytes < 0
    assert prints("mixtral-8x7b", "a10g", {"max_model_len": 4096}, "vllm@0.2.7", 2, weights="awq").memory_bytes > 0
    assert prints("mixtral-8x7b", "a10g", {}, "vllm", 2, weights="awq").concurrency > 1
    with pytest.raises(DoesNotFit, match=r"a smaller max_model_len, more devices"):
        sy.simulate("mixtral-8x7b", on="a10g:2", tp=2, weights="awq", engine="vllm@0.2.7", rate="1/s", requests=2)
    assert (
        engine_config(find_engine("vllm@0.2"), find_machine("a10g"), {"max_model_len": 9000.0}).max_num_batched_tokens
        == 9000
    )
    asked = {"on": "a10g:2", "weights": "awq", "tp": 2, "engine": "vllm@0.2.7"}
    log = {line["name"]: line["value"] for line in sy.estimate("mixtral-8x7b", **asked).to_dict()["engine_log"]}
    assert log["Available KV cache memory"] < 0
    longest = log["does not start with max_model_len 32,768; at most"]
    flags = {"max_model_len": int(longest)}
    assert prints("mixtral-8x7b", "a10g", flags, "vllm@0.2.7", 2, weights="awq").memory_bytes > 0


def test_an_engine_that_samples_too_many_at_once_says_how_many_it_can() -> None:
    log = sy.estimate("gpt-oss-120b", on="h100_sxm", engine="vllm@0.10.1").to_dict()["engine_log"]
    assert [line["name"] for line in log] == [
        "Available KV cache memory",
        "does not start with max_num_seqs 1,024; at most",
    ]
    with pytest.raises(DoesNotFit, match=r"a smaller max_num_seqs or max_num_batched_tokens, more devices"):
        sy.simulate("gpt-oss-120b", on="h100_sxm", engine="vllm@0.10.1", rate="1/s", isl=10, osl=2, requests=2)
    most = int(log[1]["value"])
    assert prints("gpt-oss-120b", "h100_sxm", {"max_num_seqs": most}, "vllm@0.10.1").memory_bytes >= 0
    assert prints("gpt-oss-120b", "h100_sxm", {"max_num_seqs": most + 1}, "vllm@0.10.1").memory_bytes < 0


def test_a_window_that_no_request_fills_is_not_held() -> None:
    """Llama 4 attends in chunks of 8,192: chats of 700 tokens were each charged for 36 layers of whole chunks."""
    model, machine = load_model("llama-4-scout").transformer, find_machine("h100_sxm")
    plan, engine = Plan(tp=4, ep=4).resolved(model, machine), find_engine("vllm")
    config = engine_config(engine, machine, {}, model)

    def at_once(longest: int) -> int:
        pool = kv_pool(model, plan, machine, engine, config, longest=longest)
        return pool.blocks // blocks_for(pool, longest)

    whole = 48 * 2 * 8 * 128 * 2.0 / 4  # every layer, keys and values, a quarter of 8 heads of 128, 2 bytes
    pool = kv_pool(model, plan, machine, engine, config, longest=700)
    assert (pool.fixed_blocks, pool.block_bytes) == (0, pytest.approx(16 * whole, rel=1e-6))
    assert at_once(700) > 10 * at_once(8191)
    assert at_once(8191) == pytest.approx(at_once(8193), rel=0.02), "no step where a window is full"
    sim = sy.simulate("llama-4-scout", on="4xh100_sxm", tp=4, ep=4, concurrency=128, requests=256, isl=300, osl=200)
    assert sim.totals["batch_mean"] > 90


def test_windows_are_paged_in_groups() -> None:
    """gpt-oss: 12 layers of each kind share blocks; what is printed divides them by both, what fits does not."""
    model = load_model("gpt-oss-20b").transformer
    plan = Plan().resolved(model, find_machine("rtx_5090"))
    pages = pages_of(model, plan, 16)
    assert pages is not None
    assert (pages.group_layers, pages.group_count, pages.block_bytes) == (12, 2, 12 * 16 * 8 * 128 * 2)
    # a request of 33,792 tokens: all of them, and of the window what a step of 8,192 may add to it
    assert pages.blocks(33_792, 8192) == 33_792 // 16 + -(-(127 + 8192) // 16) + 1
    flags = {"gpu_memory_utilization": 0.9, "max_model_len": 33_792, "max_num_batched_tokens": 8192}
    found = prints("gpt-oss-20b", "rtx_5090", flags, "vllm@0.12")
    machine, engine = find_machine("rtx_5090"), find_engine("vllm@0.12")
    pool = kv_pool(model, plan, machine, engine, engine_config(engine, machine, flags, model))
    assert pool.tokens == pytest.approx(2 * found.tokens, rel=0.001)
    assert found.concurrency * 33_792 > 1.5 * found.tokens
    newer = prints("gpt-oss-20b", "rtx_5090", flags, "vllm@0.20")
    assert newer.concurrency == found.concurrency, "what fits is the same"
    today = prints("gpt-oss-20b", "rtx_5090", flags)
    assert today.tokens == int(today.concurrency * 33_792), "what is printed is what fits"


def test_a_state_takes_a_page_as_large_as_one_of_attention() -> None:
    """Nemotron-Nano-9B-v2: vLLM says it sets the block to 672 tokens where the state is kept in 16 bits."""
    model = load_model("nemotron-nano-9b-v2").transformer
    plan = Plan().resolved(model, find_machine("h100_sxm"))
    kinds = {bool(k.state_bytes): k for k in kept_by_layers(model)}
    pages = pages_of(model, plan, 16)
    assert pages is not None
    each = kinds[False].elements_per_token * 2
    assert pages.block_tokens == 16 * -(-int(kinds[True].state_bytes) // int(16 * each))
    assert pages.page_bytes >= kinds[True].state_bytes
    engine, machine = find_engine("vllm"), find_machine("h100_sxm")
    config = engine_config(engine, machine, {}, model)
    assert not config.enable_prefix_caching
    assert engine_config(engine, machine, {"enable_prefix_caching": True}, model).enable_prefix_caching
    pool = kv_pool(model, plan, machine, engine, config)
    assert pool.block_tokens == pages.block_tokens
    assert pool.fixed_blocks * pool.block_bytes >= model.state_bytes


def test_estimate_says_bytes_by_part_and_what_the_log_will_say() -> None:
    d = sy.estimate("llama-3.1-8b", on="h100_sxm", isl=512, osl=64).to_dict()
    parts = d["memory_parts_bytes"]
    assert sum(parts["weights"].values()) == pytest.approx(d["memory_bytes"]["weights"])
    assert parts["weights"]["embedding"] == parts["weights"]["head"] == 128_256 * 4096 * 2
    assert parts["kv_cache"] + parts["state"] == pytest.approx(d["memory_bytes"]["kv_cache"])
    names = [line["name"] for line in d["engine_log"]]
    assert names[:2] == ["Available KV cache memory", "GPU KV cache size"]
    size = d["engine_log"][1]
    assert size["interval"][0] < size["value"] < size["interval"][1]
    assert names[2] == "Maximum concurrency for 131,072 tokens per request"
    assert d["engine_log"][2]["value"] == pytest.approx(size["value"] / 131_072, rel=0.01)
    sglang = sy.estimate("llama-3.1-8b", on="h100_sxm", engine="sglang").to_dict()["engine_log"]
    assert [line["name"] for line in sglang] == ["max_total_num_tokens"]


def test_an_engine_that_does_not_start_at_its_default_length_says_the_longest() -> None:
    found = prints("llama-3.1-8b", "rtx_3090", {"gpu_memory_utilization": 0.9})
    assert found.concurrency < 1
    assert found.longest == found.tokens, "of one kind of layers the whole cache"
    windows = prints("gpt-oss-20b", "rtx_4060_ti", {"gpu_memory_utilization": 0.99, "max_model_len": 131_072})
    assert windows.concurrency < 1
    assert 16 < windows.longest < 131_072
    again = prints("gpt-oss-20b", "rtx_4060_ti", {"gpu_memory_utilization": 0.99, "max_model_len": windows.longest})
    assert 1 <= again.concurrency < 1.1
    log = sy.estimate("llama-3.1-8b", on="rtx_3090", engine="vllm").to_dict()["engine_log"]
    assert log[-1]["name"] == "does not start at 131,072 tokens; max_model_len at most"


def test_llamacpp_buffers() -> None:
    """Llama 3 8B: the compute buffer of 512 tokens is 258.5 MiB, and the table of the input stays on the host."""
    found = sy.estimate("llama-3-8b", on="rtx_4090", weights="q8_0", engine="llamacpp", isl=7936, osl=256)
    log = {line["name"]: line["value"] / 2**20 for line in found.to_dict()["engine_log"]}
    assert log["compute buffer size"] == pytest.approx(258.5)
    assert log["KV buffer size"] == pytest.approx(1024)
    whole = float(found.memory.weights) / 2**20
    assert log["model buffer size"] == pytest.approx(whole - 128_256 * 4096 * 8.5 / 8 / 2**20, rel=0.001)


MEASURED = {
    "nvidia/Qwen3-8B-NVFP4": ("qwen3-8b", "nvfp4"),
    "RedHatAI/Qwen3-14B-FP8-dynamic": ("qwen3-14b", "fp8"),
    "cpatonn/Qwen3-Coder-30B-A3B-Instruct-GPTQ-4bit": ("qwen3-coder-30b-a3b-instruct", "gptq"),
    "openai/gpt-oss-20b": ("gpt-oss-20b", ""),
    "meta-llama/Meta-Llama-3.1-8B-Instruct": ("llama-3.1-8b", ""),
    "Qwen/Qwen3-8B": ("qwen3-8b", ""),
}
FLAGS = ("max_model_len", "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs")


@pytest.mark.skipif("STEELYARD_DATA" not in os.environ, reason="needs the measured tables (STEELYARD_DATA)")
def test_measured_starts_of_vllm() -> None:
    """Median within 3 % and nine of ten within 10 %, models with windows too; also the concurrency it prints."""
    errors: dict[str, list[float]] = defaultdict(list)
    held = 0
    for folder in ("rtx_consumer_vllm", "workstation_vllm_lowload"):
        path = Path(os.environ["STEELYARD_DATA"]) / "truth" / folder / "kv_capacity.csv"
        starts: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
        with path.open(newline="") as lines:
            for row in csv.DictReader(lines):
                key = (row["source_path"], row["model"], row["machine"], row["tp"], row["notes"])
                starts[key][row["metric"]] = float(row["value"])
        for (_, name, on, tp, notes), values in starts.items():
            said = dict(part.split("=", 1) for part in notes.split(";") if "=" in part)
            older = said.get("attention") in ("triton", "uv+pl")  # builds that held 2.6 GiB more
            if "kv_cache_capacity" not in values or name not in MEASURED or older:
                continue
            flags = {n: float(said[n]) if "." in said[n] else int(said[n]) for n in FLAGS if _number(said.get(n, ""))}
            model, weights = MEASURED[name]
            plan = {"weights": weights} if weights else {}
            plan |= {"kv": "fp8"} if "fp8" in said.get("kv_cache_dtype", "") else {}
            try:
                given = {"gpu_memory_utilization": 0.9, **flags}
                found = prints(model, on, given, "vllm@0.12", tp=int(tp or 1), **plan)
            except UnknownName:
                continue
            errors["tokens"].append(abs(found.tokens / values["kv_cache_capacity"] - 1))
            held += found.low <= values["kv_cache_capacity"] <= found.high
            if "kv_max_concurrency" in values:
                errors["concurrency"].append(abs(found.concurrency / values["kv_max_concurrency"] - 1))
    assert len(errors["tokens"]) >= 35
    for each in errors.values():
        assert statistics.median(each) < 0.03
        assert sorted(each)[int(0.9 * len(each))] < 0.1
    assert held >= 0.7 * len(errors["tokens"])


def _number(text: str) -> bool:
    return text.replace(".", "").isdigit()
