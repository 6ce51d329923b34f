"""Tables of single rigs: each row becomes the question it states, and the page tells hybrids from the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")

from steelyard import estimate, load_model, simulate
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.reader import Ask, Comparison
from steelyard.testing.readers import ReaderContract
from steelyard.traffic.build import Traffic
from steelyard_validation import hybrids
from steelyard_validation.blocks import block_of, is_hybrid
from steelyard_validation.readers import rigs
from steelyard_validation.readers._runs import sent
from steelyard_validation.validate import Validation, accuracy
from tests.rows import write_rows

BASE = dict.fromkeys([*rigs.COLUMNS, *rigs.STATED], "") | {
    "model": "Qwen/Qwen3-0.6B",
    "quant": "bf16",
    "machine": "dgx_spark",
    "count": 1,
    "engine": "vLLM",
    "stat": "mean",
    "value": 10,
    "tp": 1,
}


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    return write_rows(path, BASE, *rows)


def read(folder: Path) -> list[Comparison]:
    return list(rigs.read(folder, Ask(folder.name)))


def only(found: list[Comparison], metric: str) -> Comparison:
    return next(c for c in found if c.metric == metric)


BURST: dict[str, Any] = {"scenario": "closed loop bursts", "concurrency": 3, "source_path": "a", "notes": "x=1"}
OPEN: dict[str, Any] = {
    "scenario": "open loop",
    "isl": 300,
    "osl": 20,
    "request_rate": 2,
    "notes": "burstiness=1.0;num_prompts=30;kv_cache_dtype=fp8;max_model_len=4096",
}


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt row and its answer row, an open loop, and rows that cannot be asked."""
    return write(
        tmp_path_factory.mktemp("t") / "dgx_spark_arena" / "vllm_closed_and_open_loop.csv",
        {**BURST, "isl": 256, "metric": "time_to_first_response"},
        {**BURST, "osl": 16, "metric": "decode_throughput_per_request"},
        {**OPEN, "metric": "tpot"},
        {**OPEN, "metric": "ttft", "stat": "p99"},
        {**OPEN, "metric": "ttft", "suspect": "prefix cache hit"},
        {**OPEN, "metric": "itl", "quant": "bf16-spec"},
        {**OPEN, "metric": "e2e", "model": "nobody/Nothing-7B"},
        {**OPEN, "metric": "prefill_throughput_total"},
    )


class TestSpark(ReaderContract):
    reader = staticmethod(rigs.read)
    source = "dgx_spark_arena"

    @pytest.fixture
    def folder(self, spark: Path) -> Path:
        return spark

    def test_a_burst_is_what_simulate_says_of_so_many_clients_at_once(self, spark: Path) -> None:
        run = simulate(
            "Qwen/Qwen3-0.6B", "dgx_spark", engine="vllm", concurrency=3, requests=3, isl="256", osl="16"
        ).records
        found = read(spark)
        rates = next(c for c in found if c.phase == "decode")
        assert float(rates.predicted[0]) == pytest.approx(float(np.mean(1 / run.tpot_s)), rel=0.01)
        first = only([c for c in found if c.phase == "serve"], "ttft_s")
        assert float(first.predicted[0]) == pytest.approx(float(run.ttft_s.mean()), rel=0.01)

    def test_what_a_row_states_is_asked_and_what_it_lacks_is_counted(self, spark: Path) -> None:
        found = read(spark)
        assert math.isfinite(float(only(found, "tpot_s").predicted[0]))
        assert math.isfinite(float(only(found, "p99_ttft_s").predicted[0]))
        assert only(found, "itl_s").why.tolist() == [rigs.SPECULATION]
        assert "nobody/Nothing-7B" in str(only(found, "e2e_s").why[0])
        assert sum(len(c) for c in found) == 6  # neither the suspect row nor the client's own estimate

    def test_gaps_are_stretched_to_the_rate_and_a_most_in_flight_closes_the_loop(self, tmp_path: Path) -> None:
        load = Traffic(rate=2.0, arrivals="gamma:cv=1.2", requests=40, isl=64, osl=8)
        assert np.ptp(sent(load).arrived_at) == pytest.approx(40 / 2.0)
        flood = {**OPEN, "metric": "ttft", "request_rate": 500, "osl": 64, "concurrency": ""}
        folder = write(tmp_path / "dgx_spark_arena" / "vllm_closed.csv", flood, {**flood, "concurrency": 2})
        free, held = only(read(folder), "ttft_s").predicted
        assert held < 0.5 * free

    def test_marlin_keeps_activations_in_sixteen_bits(self, tmp_path: Path) -> None:
        row = {**OPEN, "metric": "tpot", "model": "Qwen/Qwen3-0.6B-FP8", "quant": "fp8"}
        marlin = {**row, "notes": f"{OPEN['notes']};--linear-backend marlin"}
        folder = write(tmp_path / "dgx_spark_arena" / "vllm_closed.csv", row, marlin)
        assert only(read(folder), "tpot_s").family.tolist() == [
            "attention: Qwen3-0.6B fp8_block",
            "attention: Qwen3-0.6B fp8_weight_only",
        ]


def test_steps_on_a_spark_hold_2048_tokens_by_default() -> None:
    config = engine_config(find_engine("vllm"), find_machine("dgx_spark"), {})
    assert (config.max_num_batched_tokens, config.max_num_seqs) == (2048, 256)


def test_llama_bench_reads_behind_a_depth_in_its_micro_batches(tmp_path: Path) -> None:
    row = {"model": "Qwen3-0.6B-Q8_0", "machine": "strix_halo", "engine": "llama.cpp", "scenario": "x"}
    prompt = {**row, "metric": "prefill_throughput", "isl": 2048, "osl": 0}
    answer = {**row, "metric": "decode_throughput", "isl": 0, "osl": 128}
    folder = write(
        tmp_path / "strix_halo_llamacpp" / "llamabench.csv",
        {**prompt, "depth": 0, "notes": "ubatch=2048"},
        {**prompt, "depth": 0, "notes": "ubatch=256"},
        {**prompt, "depth": 32768, "notes": "ubatch=2048"},
        {**answer, "depth": 0},
        {**answer, "depth": 32768},
    )
    prefill, decode = (next(c for c in read(folder) if c.phase == x).predicted for x in ("prefill", "decode"))
    assert prefill[0] > prefill[1] and prefill[0] > prefill[2]
    assert decode[0] > 1.5 * decode[1]


def test_prompts_on_several_cards_are_asked_and_the_odd_ones_of_2024_are_not(tmp_path: Path) -> None:
    row = {"model": "meta-llama/Meta-Llama-3-8B", "quant": "F16", "engine": "llama.cpp", "scenario": "x", "osl": 0}
    row |= {"metric": "prefill_throughput", "isl": 4096}
    folder = write(
        tmp_path / "llamacpp_gpu_mac_2024" / "llama3_llamabench.csv",
        {**row, "machine": "a100_pcie", "count": 1, "value": 6138},
        {**row, "machine": "a100_pcie", "count": 4, "value": 16025},
        {**row, "machine": "a100_sxm", "count": 1, "value": 866},
    )
    (found,) = read(folder)
    assert 2.2 < found.predicted[1] / found.predicted[0] < 3.2
    assert found.why.tolist() == ["", "", rigs.ODD_PROMPTS]


@pytest.mark.parametrize(
    ("name", "model", "weights"),
    [
        ("Qwen3.6-35B-A3B-UD-Q4_K_XL", "Qwen3.6-35B-A3B", "ud_q4_k_xl"),
        ("llama-2-7b.Q4_K_M", "llama-2-7b", "q4_k_m"),
        ("shisa-v2-llama3.1-8b.i1-Q4_K_M", "llama-3.1-8b", "q4_k_m"),
        ("gpt-oss-20b-F16", "gpt-oss-20b", "mxfp4_moe"),
        ("Qwen3.6-35B-A3B-BF16", "Qwen3.6-35B-A3B", "bf16"),
    ],
)
def test_names_of_files_are_a_model_and_a_format(name: str, model: str, weights: str) -> None:
    assert rigs._gguf(name) == (model, weights)
    assert load_model(model)


def test_one_user_on_a_pair_of_cards_is_a_static_batch(tmp_path: Path) -> None:
    row = {"machine": "rtx_3090", "count": 2, "tp": 2, "engine": "SGLang", "isl": 1024, "osl": 100, "concurrency": 1}
    row |= {"scenario": "one user, context sweep", "stat": "median", "metric": "tpot"}
    folder = write(
        tmp_path / "two_gpu_sglang" / "runs.csv",
        {**row, "model": "Qwen3.6-27B AWQ (Dense)", "source_path": "benchmarks/qwen3.6-27b/results.json"},
        {**row, "model": "Qwen3.6-REAM-A3B AWQ", "source_path": "benchmarks/qwen3.6-ream/results.json"},
    )
    found, pruned = read(folder)
    shown = estimate("Qwen3.6-27B", "rtx_3090:2", tp=2, weights="awq", engine="sglang", isl=1024, osl=100)
    assert float(found.predicted[0]) == pytest.approx(shown.tpot_s)
    assert (found.phase, pruned.why.tolist()) == ("one user", [rigs.PRUNED])


@pytest.mark.parametrize(
    ("model", "block"),
    [
        ("llama-3.1-8b", "attention"),
        ("gpt-oss-20b", "windowed attention"),
        ("deepseek-v3", "latent attention"),
        ("qwen3.6-27b", "gated delta net"),
        ("nemotron-3-nano", "Mamba-2"),
        ("lfm2-1.2b", "short convolution"),
        ("kimi-linear", "Kimi delta attention"),
    ],
)
def test_blocks_have_names(model: str, block: str) -> None:
    assert block_of(load_model(model).transformer) == block
    assert is_hybrid(block) is ("attention" not in block or "Kimi" in block)


def test_the_page_sets_hybrids_beside_models_of_attention_alone(tmp_path: Path) -> None:
    row = {"machine": "strix_halo", "engine": "llama.cpp", "scenario": "x", "metric": "decode_throughput", "osl": 64}
    folder = write(
        tmp_path / "strix_halo_llamacpp" / "llamabench.csv",
        {**row, "model": "Qwen3-0.6B-Q8_0", "value": 100},
        {**row, "model": "Qwen3.5-0.8B-Q8_0", "value": 90},
    )
    found = tuple(read(folder))
    page = hybrids.page(Validation(found, tuple(accuracy(found)), ()), "the command")
    lines = [x for x in page.splitlines() if x.startswith("| strix_halo_llamacpp | decode")]
    assert [x.split(" | ")[2] for x in lines] == ["attention alone", "hybrid"]
    assert "| gated delta net | strix_halo_llamacpp | decode, tokens per second | 1 | 100 |" in page
    assert hybrids.page(Validation((), (), ()), "x") == ""


def test_a_rig_without_bridges_sends_over_its_bus(tmp_path: Path) -> None:
    row = {"model": "Qwen3.6-27B", "quant": "awq-int4/awq/safetensors", "machine": "rtx_3090", "count": 2, "tp": 2}
    row |= {"engine": "vllm", "isl": 8192, "osl": 64, "concurrency": 1, "metric": "ttft", "stat": "p50"}
    folder = write(tmp_path / "rtx3090x4_rig" / "runs.csv", {**row, "scenario": "x", "notes": "spec=none"})
    bridged = estimate("Qwen3.6-27B", "rtx_3090:2", tp=2, weights="awq", engine="vllm", isl=8192, osl=64)
    assert float(only(read(folder), "ttft_s").predicted[0]) > 1.02 * bridged.ttft_s


def test_a_batched_bench_reads_whole_prompts_together_and_answers_all_at_once(tmp_path: Path) -> None:
    row = {"model": "Qwen/Qwen3-0.6B", "quant": "Q8_0", "engine": "llama.cpp", "depth": 0, "notes": "x"}
    row |= {"engine_version": "b6918, ubatch 2048", "scenario": "llama-batched-bench"}
    prompt = {**row, "metric": "prefill_throughput_total", "isl": 512, "osl": 32}
    answer = {**row, "metric": "output_throughput", "isl": 512, "osl": 32, "depth": 512}
    folder = write(
        tmp_path / "dgx_spark_llamacpp" / "batched.csv",
        {**prompt, "batch": 1, "concurrency": 1},
        {**prompt, "batch": 4, "concurrency": 4},
        {**answer, "batch": 4, "concurrency": 4, "metric": "decode_throughput"},
    )
    found = read(folder)
    prompts = only([c for c in found if c.phase == "prefill"], "tokens_per_s")
    assert prompts.why.tolist() == [rigs.WARMING, ""]
    four = estimate("Qwen/Qwen3-0.6B", "dgx_spark", weights="q8_0", engine="llamacpp_cuda", isl=512, osl=2, batch=4)
    # one micro-batch of 2048 tokens, where the engine itself would run four, without the time of a request
    assert prompts.predicted[1] == pytest.approx(2048 / four.ttft_s, rel=0.15)
    answers = only([c for c in found if c.phase == "decode"], "tokens_per_s")
    assert answers.predicted[0] == pytest.approx(4 / four.tpot_s, rel=0.02)


def test_builds_of_2024_ran_without_graphs_and_a_layer_split_decodes(tmp_path: Path) -> None:
    row = {"model": "Qwen/Qwen3-0.6B", "quant": "Q4_K_M", "machine": "rtx_4090", "engine": "llama.cpp", "depth": 0}
    row |= {"metric": "decode_throughput", "isl": 0, "osl": 512, "notes": "x", "scenario": "llama-bench generation"}
    cells = ({}, {"count": 2, "tp": ""}, {"value": ""})
    folder = write(tmp_path / "llamacpp_gpu_mac_2024" / "llama3.csv", *({**row, **x} for x in cells))
    found = read(folder)
    one, two = only([c for c in found if c.phase == "decode"], "tokens_per_s").predicted
    now = estimate("Qwen/Qwen3-0.6B", "rtx_4090", weights="q4_k_m", engine="llamacpp_cuda", isl=255, osl=2)
    assert one < 0.9 / now.tpot_s and two < one


def test_power_of_the_rail_is_what_is_drawn_above_idle_without_the_memory(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "dgx_spark_arena" / "vllm_closed.csv",
        {**BURST, "metric": "prefill_throughput", "isl": 256, "source_path": "runs/01-chat.md", "concurrency": 2},
        {**BURST, "metric": "decode_throughput", "osl": 32, "source_path": "runs/01-chat.md", "concurrency": 2},
        *({**OPEN, "scenario": f"open loop {k}", "source_path": f"runs/03-rate-{k}.json"} for k in (1, 2)),
        {**OPEN, "metric": "tpot", "source_path": "runs/04-office.json"},
    )
    row = {"scenario": "test", "metric": "gpu_power", "value": 40}
    named = [{**row, "source_path": f"runs/0{k}-telemetry.csv"} for k in (1, 2, 3, 4)]
    write(folder / "gpu_power_per_test.csv", *named)
    power = only(read(folder), "chip_power_w")
    predicted, why = power.predicted.tolist(), power.why.tolist()
    burst, office = predicted[0], predicted[3]
    machine = find_machine("dgx_spark")
    silent = tuple(x if x.inside else replace(x, energy_j_per_byte=0.0) for x in machine.memory)
    words: dict[str, Any] = {"engine": "vllm", "concurrency": 2, "requests": 2, "isl": 256, "osl": 32}
    whole, run = (simulate("Qwen/Qwen3-0.6B", m, **words) for m in (machine, replace(machine, memory=silent)))
    assert burst == pytest.approx(run.energy_j / run.makespan_s - machine.idle_w, rel=0.05)
    assert burst < whole.energy_j / whole.makespan_s - machine.idle_w - 1
    assert math.isnan(predicted[1]) and "not in the table" in why[1]
    assert math.isnan(predicted[2]) and "a sweep" in why[2]
    assert 0 < office < burst


def test_boards_held_to_a_power_draw_it(tmp_path: Path) -> None:
    row = {"model": "Qwen3.6-27B", "quant": "awq-int4/awq/safetensors", "machine": "rtx_3090", "count": 2, "tp": 2}
    row |= {"engine": "vllm", "isl": 512, "osl": 64, "concurrency": 1, "metric": "power_all_gpus", "scenario": "x"}
    folder = write(tmp_path / "rtx3090x4_rig" / "runs.csv", {**row, "notes": "spec=none;power_limit_w=220"})
    found = only(read(folder), "power_w")
    assert 0.85 * 440 < found.predicted[0] <= 440


def test_clients_of_the_rig_send_one_request_each(tmp_path: Path) -> None:
    """First tokens of its concurrency curves grow with the clients: all begin at once and none sends again."""
    row = {"model": "Qwen/Qwen3-0.6B", "quant": "bf16", "machine": "rtx_3090", "count": 1, "tp": 1, "engine": "vllm"}
    row |= {"isl": 2048, "osl": 8, "metric": "ttft", "scenario": "x", "notes": "spec=none"}
    folder = write(tmp_path / "rtx3090x4_rig" / "runs.csv", {**row, "concurrency": 2}, {**row, "concurrency": 16})
    few, many = only(read(folder), "ttft_s").predicted
    assert many > 4 * few


def test_rows_split_otherwise_than_by_layers_are_counted_and_not_asked(tmp_path: Path) -> None:
    row = {"model": "Qwen3.6-27B", "quant": "gguf-q6_k/gguf/gguf", "machine": "rtx_3090", "count": 2, "tp": 2}
    row |= {"engine": "llama.cpp", "isl": 2048, "osl": 64, "concurrency": 1, "scenario": "x", "notes": "spec=none"}
    row |= {"metric": "prefill_throughput", "stat": "mean"}
    paths = ({**row, "source_path": f"runs.jsonl#q6k/sm-{split}/pp2048"} for split in ("layer", "row"))
    folder = write(tmp_path / "rtx3090x4_rig" / "runs.csv", *paths)
    assert [why for c in read(folder) for why in c.why.tolist()] == ["", rigs.BY_ROWS]


def test_a_queue_of_trtllm_bench_is_all_devices_and_attention_may_be_by_replica(tmp_path: Path) -> None:
    row = {"model": "Qwen/Qwen3-0.6B", "quant": "fp8", "machine": "h200_sxm", "count": 2, "tp": 2, "ep": 1}
    row |= {"engine": "TensorRT-LLM", "isl": 1000, "osl": 10, "metric": "output_throughput_per_gpu", "stat": "mean"}
    apart = {**row, "scenario": "offline maximum load, attention DP", "value": 10.0}
    folder = write(
        tmp_path / "trtllm_perf_overview_2025_12" / "offline.csv", {**row, "scenario": "offline", "value": 10.0}, apart
    )
    found = only(read(folder), "tokens_per_s")
    assert found.measured.tolist() == [20.0, 20.0] and found.why.tolist() == ["", ""]
    assert found.predicted[1] > 1.1 * found.predicted[0]  # no all-reduce of a small model
