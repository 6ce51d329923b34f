"""``dgx_spark_arena`` and other rigs: engines on desks and in small servers, as their owners measured them in 2026.

vLLM on a DGX Spark (bursts, closed and open loops), llama.cpp on Strix Halo and DGX Spark, SGLang on pairs of cards and
in its cookbook, vLLM, llama.cpp and ExLlamaV3 on RTX 3090. Lengths, clients, rates, formats, degrees and flags are the
row's; everything else is the engine's default. A row is not asked where it does not state its lengths, guesses tokens,
or ran a model with pruned experts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, guarded, machine_of, read_frame
from steelyard.scenario.recipes import find_recipe
from steelyard.traffic.build import Traffic
from steelyard_validation.fits.family import split_of
from steelyard_validation.readers._runs import Bench, Place, Row, compared
from steelyard_validation.readers._whole import eight_bit, known_model

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

COLUMNS = ["model", "quant", "machine", "count", "engine", "scenario", "metric", "stat", "value", "notes"]
STATED = [
    "tp",
    "ep",
    "isl",
    "osl",
    "depth",
    "concurrency",
    "request_rate",
    "source_path",
    "suspect",
    "batch",
    "engine_version",
    "date",
]
#: Metrics in time, and ours for them; ms in the tables.
TIMES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2e": "e2e_s", "time_to_first_response": "ttft_s"}
RATES = {
    "output_throughput": "tokens_per_s",
    "decode_throughput": "decode_tokens_per_s",
    "decode_throughput_per_request": "decode_tokens_per_s",
    "prefill_throughput": "prompt_tokens_per_s",
    "request_throughput": "requests_per_s",
}
POWERS = {"power_all_gpus": "power_w"}
#: Fine-tuned models with the shapes of another.
SHAPED = {
    "Kwaipilot/KAT-Coder-V2.5-Dev": "Qwen/Qwen3.5-35B-A3B",
    "deepseek-ai/DeepSeek-Math-V2": "deepseek-ai/DeepSeek-V3.2",
}
LENGTHS = "the row does not state its lengths"
SPECULATION = "speculative decoding: the row states no rate of acceptance of its own"
FOREIGN = "a draft with another vocabulary than the model's"
REPEATED = "prompts of the runs share their beginnings: the time to first token is that of a cache hit"
PRUNED = "experts pruned: no published configuration"
BY_ROWS = "weights shared out by rows (--split-mode row): not priced"


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Every table of the folder that states runs."""
    for pattern, rows in _TABLES.get(folder.name, ()):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, partial(_table, path, ask, rows))


def _table(path: Path, ask: Ask, rows: Callable[..., Iterator[Row]]) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS, STATED)
    frame = frame[frame["suspect"].isna()]  # marked by the table
    if rows is _spark_power:
        beside = [read_frame(x, COLUMNS, STATED) for x in sorted(path.parent.glob("vllm_closed*.csv"))]
        rows = partial(_spark_power, runs=beside[0]) if beside else _nothing
    yield from compared(list(rows(frame)), path, ask)


def _nothing(frame: pd.DataFrame) -> Iterator[Row]:
    return iter(())


def _rows(frame: pd.DataFrame, asked: Callable[[Any, Mapping[str, str]], tuple[Place, Any]]) -> Iterator[Row]:
    """Rows whose metric has a name of ours; ``asked`` gives the place, and the load or why there is none."""
    for r in frame.itertuples(index=False):
        metric = TIMES.get(r.metric) or RATES.get(r.metric) or POWERS.get(r.metric)
        if metric is None:
            continue  # memory, power, the client's own estimates
        said = dict(part.split("=", 1) for part in str(r.notes).split(";") if "=" in part)
        place, load = asked(r, said)
        stat = {"median": "p50", "mean/median": "p50"}.get(r.stat, r.stat)
        value = float(r.value) * (1e-3 if r.metric in TIMES else 1.0)
        why = load if isinstance(load, str) else ""
        yield Row(place, None if why else load, metric, stat, value, why)


def _whole(value: Any, otherwise: int = 1) -> int:
    return int(value) if np.isfinite(value) and value > 0 else otherwise


def _known(*values: Any) -> bool:
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all()) and min(values) > 0


def _flags(said: Mapping[str, str], **names: str) -> tuple[tuple[str, float], ...]:
    """Engine flags a note states, by our names; ``names`` gives the note's own."""
    given = {flag: said.get(note, "") for flag, note in names.items()}
    return tuple((flag, float(v)) for flag, v in given.items() if re.fullmatch(r"[\d.]+", v))


# ---- vLLM on a DGX Spark --------------------------------------------------------------------------------------------


def _spark(frame: pd.DataFrame) -> Iterator[Row]:
    """Bursts of llama-benchy (all clients at once) and open loops of ``vllm bench serve``."""
    burst = frame["scenario"].str.startswith("closed")
    frame = frame[~burst | ~frame["metric"].isin(["ttft", "request_throughput"])]  # ``ttft``: after hidden reasoning
    closed = frame["scenario"].str.startswith("closed")
    file = frame["source_path"].where(closed)
    # one test is a prompt row and then an answer row, each with its own length
    isl = frame["isl"].where(~closed, frame["isl"].groupby(file).ffill())
    osl = frame["osl"].where(~closed, frame["osl"].groupby(file).bfill())
    yield from _rows(frame.assign(isl=isl, osl=osl), _spark_asked)


def _spark_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    weights = {"bf16": "", "mxfp4": "", "bf16-spec": "", "fp8": eight_bit(r.model)}.get(r.quant, r.quant)
    if "backend marlin" in r.notes:  # Marlin multiplies in 16 bits
        weights = {"nvfp4": "nvfp4_weight_only"}.get(weights, "fp8_weight_only")
    said = {**said, "budget": "".join(re.findall(r"--max-num-batched-tokens (\d+)", r.notes))}
    flags = _flags(
        said,
        max_model_len="max_model_len",
        gpu_memory_utilization="gpu_memory_utilization",
        max_num_batched_tokens="budget",
    )
    kv = "fp8" if "fp8" in said.get("kv_cache_dtype", "") else ""
    place = Place(
        SHAPED.get(r.model) or re.sub(r"-(FP8|NVFP4)$", "", r.model), r.machine, "vllm", weights, kv, flags=flags
    )
    if r.quant == "bf16-spec":
        return place, SPECULATION
    if not _known(r.isl, r.osl):
        return place, LENGTHS
    lengths: dict[str, Any] = {"isl": round(r.isl), "osl": round(r.osl)}
    if np.isfinite(r.request_rate):
        if "sharegpt" in r.scenario:
            lengths = {name: f"lognormal:{n}" for name, n in lengths.items()}
        cv = float(said["burstiness"]) ** -0.5
        count = int(said["num_prompts"])
        most = int(r.concurrency) if np.isfinite(r.concurrency) else None
        load = Traffic(rate=float(r.request_rate), arrivals=f"gamma:cv={cv:.4g}", requests=count, **lengths)
        return place, replace(load, concurrency=most)
    clients = int(r.concurrency)
    return place, Traffic(concurrency=clients, requests=clients, **lengths)


SWEEP = "a sweep of rates: one mean over all of them"
LOST = "the load of this test is not in the table of times"


def _spark_power(frame: pd.DataFrame, runs: pd.DataFrame) -> Iterator[Row]:
    """Mean power of the GPU while a test ran, at the most clients of the test.

    A test is bursts of several sizes, whose power is alike; ``runs`` is the table of its times. The rail leaves out
    what the memory draws for its accesses, and memory and processor at rest: what the whole device draws when idle.
    """
    test = runs["source_path"].str.extract(r"^(.*/\d\d)")[0]
    for r in frame.itertuples(index=False):
        mine = runs[test == str(r.source_path).removesuffix("-telemetry.csv")]
        closed = mine["scenario"].str.startswith("closed")
        if not closed.any() and mine["scenario"].nunique() > 1:
            yield Row(Place(r.model, r.machine, "vllm"), None, "chip_power_w", "mean", float(r.value), SWEEP)
            continue
        ours = mine[closed] if closed.any() else mine
        asked = next((row for row in _spark(ours.sort_values("concurrency", ascending=False))), None)
        if asked is None:
            yield Row(Place(r.model, r.machine, "vllm"), None, "chip_power_w", "mean", float(r.value), LOST)
        else:
            place = replace(asked.place, rail=True)
            yield replace(asked, place=place, metric="chip_power_w", stat="mean", measured=float(r.value))


# ---- llama.cpp ------------------------------------------------------------------------------------------------------

_FILE = re.compile(r"[-.](UD-|i1-)?(I?Q\d\w*|BF16|F16|MXFP4)$", re.IGNORECASE)


def _gguf(name: str) -> tuple[str, str]:
    """Model and format of a GGUF file's name."""
    found = _FILE.search(name)
    if found is None:
        return name, ""
    model, quant = name[: found.start()], found.group(2).lower()
    model = re.sub(r"^shisa-v2-llama3\.(\d)-?", r"llama-3.\1-", model)
    if model.startswith("gpt-oss"):
        return model, "mxfp4_moe"
    return model, {"f16": "fp16"}.get(quant, f"ud_{quant}" if (found.group(1) or "").lower() == "ud-" else quant)


def _llama_bench(frame: pd.DataFrame) -> Iterator[Row]:
    """Three figures of the family are fitted to dense models, half of them (``fits.family``); experts to none."""
    for row in _rows(frame, _llama_bench_asked):
        found = known_model(row.place.model)
        dense = found is not None and not getattr(found.transformer, "experts", 0)
        name = row.place.model + row.place.weights
        yield replace(row, split=str(split_of([row.place.machine], [name])[0])) if dense else row


def llama_bench_rows(folder: Path) -> Iterator[tuple[Place, Bench, float]]:
    """Place, test and rate of every test of llama-bench in a folder."""
    for path in sorted(folder.glob("l*.csv")):
        for row in _rows(read_frame(path, COLUMNS, STATED), _llama_bench_asked):
            if isinstance(row.load, Bench):
                yield row.place, row.load, row.measured


def _llama_bench_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    model, weights = _gguf(r.model)
    engine = _llamacpp(r.machine)
    if engine == "llamacpp" and str(r.date) < "2025-12" and str(r.date)[:2] == "20":  # not an empty cell
        engine = "llamacpp@b6900"
    place = Place(model, r.machine, engine, weights)
    depth = int(r.depth) if np.isfinite(r.depth) else 0
    if r.metric == "prefill_throughput":
        return place, Bench("prefill", int(r.isl), depth, _whole(float(said.get("ubatch", "512"))))
    return place, Bench("decode", int(r.osl), depth)


#: The first test of a run of ``llama-batched-bench`` is slower than its second, with twice the work: it warms up.
WARMING = "the first test of its run warms up"


def _batched_bench(frame: pd.DataFrame) -> Iterator[Row]:
    """``llama-batched-bench``: all prompts of a batch, then all answers together; and llama-bench behind a depth."""
    frame = frame.replace({"metric": {"prefill_throughput_total": "prefill_throughput"}})
    file = frame["model"].astype(str) + frame["scenario"]
    frame = frame.assign(warming=~file.duplicated() & frame["scenario"].str.contains("batched"))
    yield from _rows(frame, _batched_bench_asked)


def _batched_bench_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    weights = {"mxfp4": "mxfp4_moe"}.get(r.quant, r.quant.lower())
    place = Place(r.model, r.machine, _llamacpp(r.machine), weights)
    if r.warming:
        return place, WARMING
    depth, ubatch = _whole(r.depth, 0), re.search(r"ubatch (\d+)", str(r.engine_version))
    if r.metric == "prefill_throughput":
        return place, Bench("prefill", int(r.isl), depth, int(ubatch.group(1)) if ubatch else 512, int(r.batch))
    return place, Bench("decode", int(r.osl), depth, batch=int(r.batch))


#: Cards whose 16-bit prompts of an 8B model are several times slower in this table than those of lesser cards, and
#: grow faster with their length; below this rate, tokens/s.
ODD = {"a100_sxm": 2000.0, "l40s": 4500.0}
ODD_PROMPTS = "an anomaly by the table's own note: 16-bit prompts slower than on lesser cards, faster when longer"


def _first_builds(frame: pd.DataFrame) -> Iterator[Row]:
    """llama-bench of May 2024: no graphs, no flash attention; layers of several cards one after another."""
    yield from _rows(frame[frame["value"].notna()], _first_builds_asked)


def _first_builds_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    weights = {"F16": "fp16"}.get(r.quant, r.quant.lower())
    engine = {"llamacpp_cuda": "llamacpp@b2500"}.get(_llamacpp(r.machine), "llamacpp")
    place = Place(r.model, r.machine, engine, weights, pp=int(r.count))
    if r.metric == "prefill_throughput":
        odd = r.quant == "F16" and "8B" in r.model and ODD.get(r.machine, 0.0) > float(r.value)
        return place, ODD_PROMPTS if odd else Bench("prefill", int(r.isl))
    return place, Bench("decode", int(r.osl))


def _llamacpp(machine: str) -> str:
    device = machine_of(machine)
    return "llamacpp_cuda" if device is not None and device.launch == "cuda" else "llamacpp"


def _guessing(frame: pd.DataFrame) -> Iterator[Row]:
    """One request with and without guessed tokens."""
    yield from _rows(frame.replace({"metric": {"prompt_time": "ttft"}, "stat": {"single": "mean"}}), _guessing_asked)


def _guessing_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    model, weights = _gguf(r.model)
    place = Place(model, r.machine, _llamacpp(r.machine), weights)
    guesses = re.search(r"mtp-(\d)", r.scenario)
    if guesses:
        tried, right = (float(said[name]) for name in ("draft_n", "accepted"))
        place = replace(place, speculate=_chain("mtp", int(guesses.group(1)), right / max(tried, 1.0)))
    return place, Traffic(concurrency=1, requests=1, isl=int(r.isl), osl=int(r.osl))


def _chain(method: str, guesses: int, used: float) -> str:
    """``--speculate`` of a chain of which so large a share of the guesses was used."""
    return f"{method}:k={guesses},length={1 + guesses * used:.4g}"


# ---- SGLang ---------------------------------------------------------------------------------------------------------

#: Models of the two-card tables, by a pattern of their name and of the folder of the run; the first that fits counts.
PAIRS = (
    (r"REA[MP]|rea[mp]|qwen3\.5-28b", ""),
    (r"Qwen3\.5-27B|qwen35-27b|qwen35-awq", "Qwen3.5-27B"),
    (r"Qwen3\.6-27B|qwen3\.6-27b", "Qwen3.6-27B"),
    (r"Qwen3\.5-35B", "Qwen3.5-35B-A3B"),
    (r"Qwen3\.6-35B|qwen3\.6-35b", "Qwen3.6-35B-A3B"),
    (r"Qwen3-Coder-30B|coder-30b", "Qwen3-Coder-30B-A3B-Instruct"),
    (r"Qwen3-VL-32B|qwen3-vl-32b", "Qwen3-VL-32B-Instruct"),
)


#: Steps of experts are captured graphs on the pair of Radeon cards from this day on ("cuda-graph ON" in the rows);
#: before, their kernels were launched one by one.
RDNA4, GRAPHS_FROM = "radeon_ai_pro_r9700", "2026-06-01"


def _pairs(frame: pd.DataFrame) -> Iterator[Row]:
    yield from _rows(frame, _pairs_asked)


def _pairs_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    named = f"{r.model} {r.source_path}"
    model = next((name for pattern, name in PAIRS if re.search(pattern, named)), r.model)
    weights = next((w for w in ("gptq", "fp8") if w.upper() in r.model), "awq")
    place = Place(model or r.model, r.machine, "sglang", weights, tp=_whole(r.tp, int(r.count)))
    if not model:
        return place, PRUNED
    if r.metric == "ttft":
        return place, REPEATED
    if not _known(r.isl) or "throughput" in r.scenario:
        return place, LENGTHS
    dated = re.match(r"20\d\d-\d\d-\d\d", str(r.engine_version))
    if r.machine == RDNA4 and "-A3B" in model and dated and dated.group() < GRAPHS_FROM:
        place = replace(place, flags=(("enforce_eager", True),))
    return place, Traffic(concurrency=1, isl=int(r.isl), osl=_whole(r.osl, 100))


def _cookbook(frame: pd.DataFrame) -> Iterator[Row]:
    """All but the rows with images, which have a reader of their own."""
    yield from _rows(frame[~frame["scenario"].str.contains("image")], _cookbook_asked)


def _cookbook_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    tp, dp = _whole(r.tp, int(r.count)), _whole(float("nan" if said["dp"] == "None" else said["dp"]))
    place = Place(
        SHAPED.get(r.model, r.model),
        r.machine,
        "sglang",
        eight_bit(r.model) if r.model.endswith("-FP8") else "",
        tp=tp // dp if "True" in said["dp_attention"] else tp,
        dp=dp,
        ep=_whole(r.ep),
    )
    if said["spec"] == "True":
        return place, SPECULATION
    if place.tp * place.dp != r.count:
        return place, "the row does not state how its devices are divided"
    if not _known(r.isl, r.osl):
        return place, LENGTHS
    asked = re.search(r"num_prompts=(\d+)", r.scenario)
    clients = int(r.concurrency)
    # `random` of the benchmark draws up to twice the mean
    isl, osl = (f"uniform:1-{round(2 * n)}" for n in (r.isl, r.osl))
    requests = int(asked.group(1)) if asked else None
    return place, Traffic(concurrency=clients, requests=requests, isl=isl, osl=osl)


# ---- RTX 3090 -------------------------------------------------------------------------------------------------------

ENGINES = {"vllm": "vllm", "exllamav3": "exllamav3", "llama.cpp": "llamacpp_cuda"}


def _ampere_format(quant: str) -> str:
    name = quant.split("/")[0]
    exl = re.match(r"exl3-([\d.]+)bpw", name)
    if exl:
        return f"exl3@{exl.group(1)}"
    known = {"awq-int4": "awq", "autoround-int4": "gptq", "fp8-static": "fp8", "int8-w8a8": "int8", "bf16": ""}
    return known.get(name, name.removeprefix("gguf-"))


def _ampere(frame: pd.DataFrame) -> Iterator[Row]:
    """Where a run states its rate of decoding, its output rate is the same figure again."""
    decoded = frame[frame["metric"] == "decode_throughput"]
    twice = frame["metric"].eq("output_throughput") & frame["source_path"].isin(decoded["source_path"])
    yield from _rows(frame[~twice], _ampere_asked)


def _ampere_asked(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    model = {"Mistral-7B": "Mistral-7B-Instruct-v0.3", "Qwen3.5-122B": "Qwen3.5-122B-A10B"}.get(r.model, r.model)
    kv = {"fp8": "fp8", "q8_0": "q8_0", "q8": "q8_0", "q8_0/q8_0": "q8_0"}.get(said.get("kv", ""), "")
    engine = ENGINES[r.engine]
    split = _whole(r.tp)
    watts = float(said.get("power_limit_w", 0.0))
    place = (
        Place(  # no bridges in this rig, and a driver with peer access, which NCCL uses for two cards of an EPYC only
            model, r.machine, engine, _ampere_format(r.quant), kv, peers="pcie3", staged=split > 2, power_w=watts
        )
    )
    if engine == "llamacpp_cuda":  # layers are shared out
        place = replace(place, pp=split)
    else:
        flags = _flags(said, max_model_len="context_len", max_num_seqs="max_num_seqs", gpu_memory_utilization="gmu")
        place = replace(place, tp=split, flags=flags if engine == "vllm" else ())
    spec = json.loads(said["spec"]) if said.get("spec", "none").startswith("{") else {}
    if "ngram" in spec.get("method", "") and spec.get("acceptance"):
        place = replace(place, speculate=_chain("ngram", spec["k"], spec["acceptance"]))
    elif spec.get("method") == "draft_model_tli":
        return place, FOREIGN
    elif spec or said.get("spec", "none") != "none" or "dflash" in r.quant:
        return place, SPECULATION
    if "reap" in r.quant:
        return place, PRUNED
    if "/sm-row/" in str(r.source_path):
        return place, BY_ROWS
    if engine == "llamacpp_cuda" and r.metric == "prefill_throughput" and _known(r.isl) and not r.osl:
        return place, Bench("prefill", int(r.isl))
    if engine == "llamacpp_cuda" and r.metric == "decode_throughput" and r.isl == 0:
        return place, Bench("decode", int(r.osl))
    if not _known(r.isl, r.osl):
        return place, LENGTHS
    if not _known(r.concurrency):
        return place, "the row does not state its clients"
    clients = int(r.concurrency)  # one request each, all at once: first tokens grow with the clients
    return place, Traffic(concurrency=clients, requests=clients, isl=int(r.isl), osl=int(r.osl))


# ---- TensorRT-LLM ---------------------------------------------------------------------------------------------------


def _queued(frame: pd.DataFrame) -> Iterator[Row]:
    """``trtllm-bench``: all requests wait at the start; rates are of one device."""
    rates = frame["metric"].eq("output_throughput_per_gpu")
    yield from _rows(frame[rates].assign(metric="output_throughput", value=frame["value"] * frame["count"]), _queue)


def _queue(r: Any, said: Mapping[str, str]) -> tuple[Place, Any]:
    weights = "" if "gpt-oss" in r.model else eight_bit(r.model) if r.quant == "fp8" else r.quant
    words, flags = find_recipe("trtllm-overview/offline").said({"isl": int(r.isl), "osl": int(r.osl)})
    place = Place(r.model, r.machine, "trtllm", weights, "fp8", tp=_whole(r.tp), ep=_whole(r.ep))
    place = replace(place, flags=(*flags.items(), ("api_server_count", 0)))
    if "attention DP" in r.scenario:
        place = replace(place, tp=1, dp=place.tp)
    requests = int(words["requests"])
    return place, Traffic(concurrency=requests, requests=requests, isl=int(r.isl), osl=int(r.osl))


_TABLES: Mapping[str, tuple[tuple[str, Callable[..., Iterator[Row]]], ...]] = {
    "dgx_spark_arena": (("vllm_closed*.csv", _spark), ("gpu_power*.csv", _spark_power)),
    "dgx_spark_llamacpp": (("batched*.csv", _batched_bench),),
    "llamacpp_gpu_mac_2024": (("llama3*.csv", _first_builds),),
    "strix_halo_llamacpp": (("l*.csv", _llama_bench), ("mtp*.csv", _guessing)),
    "two_gpu_sglang": (("*.csv", _pairs),),
    "sglang_cookbook": (("*.csv", _cookbook),),
    "rtx3090x4_rig": (("*.csv", _ampere),),
    "trtllm_perf_overview_2025_12": (("offline*.csv", _queued),),
}
