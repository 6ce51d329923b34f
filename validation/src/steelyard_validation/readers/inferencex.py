"""``inferencex_silicon``: closed loops of InferenceX and of NVIDIA's lab, mean time to first token and between tokens.

Each of ``concurrency`` clients sends its next request when one ends. InferenceX draws lengths uniformly from
``[0.8 L, L]`` and stops after ten requests per client; every row is played through the simulator with the flags its
published script sets. Duplicates and rows whose parallel degrees were counted twice upstream are dropped. Throughput is
``clients / (tpot + ttft / osl)`` per device on both sides, as the table derives it. Rows with something the matter are
families of their own (:func:`families`); rows the engines' times were fitted to are labelled (:func:`fitted_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.measurements.reader import (
    Ask,
    Comparison,
    Floats,
    comparison,
    guarded,
    machine_name,
    read_frame,
)
from steelyard_validation.readers._serve import Load, Outcome, Service, column, ranged, shown
from steelyard_validation.readers._whole import (
    Columns,
    Placed,
    Shown,
    deploy,
    eight_bit,
    predict_all,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

#: Lengths are uniform from this share of the nominal ones up to them (``--random-range-ratio``).
SHORTEST = 0.8
MEAN_LENGTH = (1.0 + SHORTEST) / 2
#: The lab states no spread. With none at all clients would march in step, which its rows do not show; picked from
#: 0.8, 0.95 and 1 on them.
LAB_SHORTEST = 0.95
#: Clients of the lab's TensorRT-LLM runs of the dense model that always wait: their engine was built for one
#: sequence less than the concurrency (their times to first token at small concurrency show one generation of waiting,
#: shared by all).
HELD_BACK = 1
#: Exponent of expert popularity, as published synthetic routers have it. Even routing is excluded by the rows
#: themselves: gpt-oss-120b on a B200 at 16 clients is faster than reading the experts it would hit.
SKEW = 1.01
#: Requests per client of an InferenceX run (``num_prompts = 10 x concurrency``).
REQUESTS = 10
KEYS = ["model_path", "system", "backend", "gemm_quant_mode", "moe_quant_mode", "tp", "pp", "dp", "ep", "stated"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Aggregated, disaggregated and long-context tables."""
    from steelyard_validation.readers.inferencex_pools import disaggregated

    for pattern, table in (
        ("agg_*.csv", _aggregated),
        ("disagg_*.csv", disaggregated),
        ("*token_position*.csv", _positions),
    ):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, partial(table, path, ask))


def place(
    model: str, system: str, backend: str, gemm: Any, moe: Any, tp: float, pp: float, dp: float, ep: float, stated: bool
) -> Placed | str:
    """The deployment of a row."""
    if not stated:
        return "load or lengths not stated"
    modes = {str(gemm), str(moe)} - {"nan", "None", ""}
    weights = (
        "fp8_block"
        if "fp8_block" in modes
        else eight_bit(model)
        if "fp8" in modes
        else "nvfp4"
        if "nvfp4" in modes
        else ""
    )
    open_weights = "gpt-oss" in model
    weights = "" if open_weights else weights  # published in MXFP4 and run as such
    engine = str(backend).lower().replace("tensorrt-llm", "trtllm")
    # vLLM on H100: the published flag says fp8, the rows queue as 16 bit does
    kv = "fp8" if modes and (engine == "trtllm" or (engine == "vllm" and "h100" not in system)) else ""
    if open_weights and machine_name(system).startswith("h"):
        kv = ""  # the scripts leave the cache in 16 bit on Hopper
    # and with its activations in MXFP8 on Blackwell, by flag in vLLM and by default in TensorRT-LLM
    activations = "mxfp8" if open_weights and machine_name(system).startswith(("b", "gb")) else ""
    found = deploy(
        model,
        system,
        tp=int(tp),
        pp=int(pp),
        dp=int(dp),
        ep=int(ep),
        weights=weights,
        activations=activations,
        kv=kv,
        engine=engine,
    )
    if isinstance(found, str):
        return found
    if engine == "vllm" and found.cluster.machine.family == "blackwell":
        # the scripts fuse FlashInfer's all-reduce, which is TensorRT-LLM's, with the norm behind it
        found = replace(found, engine=replace(found.engine, all_reduce="trtllm"))
    return replace(found, skew=SKEW if found.transformer.experts else 0.0)


def degrees(frame: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """Columns tp, pp, dp, ep from the table's.

    Experts spread over more devices than attention is split over mean attention data parallelism, stated or not; they
    are then shared by all of them.
    """

    def degree(name: str) -> Floats:
        column = frame.get(prefix + name)
        if column is None:
            return np.ones(len(frame))
        return np.asarray(column.fillna(1.0), dtype=np.float64)

    tp, dp, ep = degree("tp_size"), degree("attention_dp_size"), degree("moe_ep_size")
    spread = ep * degree("moe_tp_size")
    if prefix + "attention_dp_size" in frame:
        unstated = frame[prefix + "attention_dp_size"].isna().to_numpy()
        dp = np.where(unstated & (spread > tp) & (spread % tp == 0), spread / tp, dp)
    even = spread == tp * dp
    return frame.assign(tp=tp, pp=degree("pp_size"), dp=dp, ep=np.where(dp > 1, tp * dp, np.where(even, ep, 1.0)))


def stated(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column that says whether a row states its load and lengths."""
    return frame.assign(stated=frame[["concurrency", "isl", "osl"]].notna().all(axis=1))


def _both(at: Placed, rows: pd.DataFrame) -> list[Shown]:
    """Time between tokens, to the first, tokens per second and device, and 2 where the cache was full (else 1)."""
    loads = [load_of(at, row) for row in rows.to_dict("records")]
    return figures(at, rows, Service.of(at, loads).all_closed(loads))


def load_of(at: Placed, row: Mapping[str, Any]) -> Load:
    """The closed loop of a row, with the flags its script sets (else the engine's defaults)."""
    clients, isl, osl = int(row["concurrency"]), int(row["isl"]), int(row["osl"])
    flags = run_flags(at, bool(row["uniform"]), clients, isl, osl)
    shortest = SHORTEST if row["uniform"] else LAB_SHORTEST
    return Load(clients, REQUESTS * clients, isl, osl, shortest, tuple(flags.items()))


def run_flags(at: Placed, public: bool, clients: int, isl: int, osl: int) -> dict[str, Any]:
    """Engine flags of a run, by the engine's names.

    InferenceX publishes its scripts (``benchmarks/*.sh``): vLLM with ``--gpu-memory-utilization 0.9`` and
    ``--max-num-seqs CONC`` (512 on Blackwell) and a budget of 8192; TensorRT-LLM with ``max_num_tokens`` equal to the
    longest sequence (dense), 20000 (gpt-oss) or ``max(8192, CONC + ISL + 64)`` (DeepSeek); SGLang with chunks of 32768
    and 0.82 of the memory.
    The lab states nothing: one seat per client.
    """
    engine, moe = at.engine.name, bool(at.transformer.experts)
    blackwell = at.cluster.machine.name.startswith(("b", "g"))
    longest = isl + osl + 200
    if engine == "vllm":
        seats = {"max_num_seqs": 512 if public and blackwell else clients}
        # the script for Blackwell compiles whole steps and captures decodes only (cudagraph_mode FULL_DECODE_ONLY)
        eager = {"graph_tokens": 0} if public and blackwell and not moe else {}
        return {**seats, "gpu_memory_utilization": 0.9, "max_num_batched_tokens": 8192, **eager}
    if engine == "trtllm":
        if not public:
            held = 0 if moe else HELD_BACK
            return {"max_num_seqs": max(1, clients - held), "gpu_memory_utilization": 0.9}
        mla = "deepseek" in at.transformer.name.lower()
        tokens = (max(8192, (clients + isl + 127) // 64 * 64) if mla else 20000) if moe else longest
        share = (0.8 if blackwell else 0.75) if mla else 0.85 if moe else 0.9
        return {"max_num_seqs": max(clients, 2), "max_num_tokens": tokens, "free_gpu_memory_fraction": share}
    if engine == "sglang" and public:
        if at.plan.weights == "nvfp4":
            return {"max_running_requests": 256, "chunked_prefill_size": 16384, "mem_fraction_static": 0.85}
        if at.plan.tp < 8:
            return {"max_running_requests": max(32, clients), "chunked_prefill_size": 8192, "mem_fraction_static": 0.95}
        return {"max_running_requests": 512, "chunked_prefill_size": 32768, "mem_fraction_static": 0.82}
    return {}


#: Steps for which TensorRT-LLM's attention data parallelism waits until every device has a prompt
#: (``attention_dp_config.timeout_iters`` of the published scripts, ``enable_balance``); half of it on average.
BALANCE_STEPS = 60


def waiting_steps(at: Placed, row: Mapping[str, Any]) -> float:
    """Steps for which an engine holds back new prompts, from the published scripts; 0 mostly.

    TensorRT-LLM's ``batch_wait_timeout_iters`` waits for more prompts: 20 steps for the dense model at 1k/1k on fewer
    than eight devices, 40 for DeepSeek on Blackwell there from 64 to 255 clients.
    """
    if not row["uniform"] or at.engine.name != "trtllm":
        return 0.0
    if at.plan.dp > 1:
        return BALANCE_STEPS / 2
    if not (row["isl"] == 1024 and row["osl"] == 1024):
        return 0.0
    if not at.transformer.experts:
        return 20.0 if at.plan.tp < 8 else 0.0
    blackwell = at.cluster.machine.name.startswith(("b", "g"))
    mla = "deepseek" in at.transformer.name.lower()
    return 40.0 if mla and blackwell and at.plan.weights != "nvfp4" and 64 <= row["concurrency"] < 256 else 0.0


#: Tokens SGLang's server gathers before it sends any (``--stream-interval`` of the published scripts for Blackwell).
STREAM_INTERVAL = 30


def streamed_steps(at: Placed, row: Mapping[str, Any]) -> float:
    """Further tokens a client of SGLang waits for before it sees the first one."""
    blackwell = at.cluster.machine.name.startswith(("b", "g"))
    return STREAM_INTERVAL - 1.0 if row["uniform"] and at.engine.name == "sglang" and blackwell else 0.0


def polling_steps(at: Placed, row: Mapping[str, Any]) -> float:
    """Steps between SGLang's looks at its inbox (``--scheduler-recv-interval`` of the scripts for Blackwell)."""
    blackwell = at.cluster.machine.name.startswith(("b", "g"))
    if not row["uniform"] or at.engine.name != "sglang" or not blackwell:
        return 0.0
    return 30.0 if row["concurrency"] >= 16 else 10.0


def figures(at: Placed, rows: pd.DataFrame, runs: Sequence[Sequence[Outcome]]) -> list[Shown]:
    """What the table measured of each run, as ``simulate`` shows it, with the datasheet's figure.

    An engine that waits ``n`` steps for more prompts mostly does so to the end; one that polls every ``n`` steps holds
    a prompt for half of them.
    """
    records = rows.to_dict("records")
    wait = np.asarray([waiting_steps(at, row) for row in records])
    poll = np.asarray([polling_steps(at, row) + 2 * streamed_steps(at, row) for row in records])
    mean = np.where(rows["uniform"], MEAN_LENGTH, (1.0 + LAB_SHORTEST) / 2)
    isl, osl = (np.round(rows[name].to_numpy(dtype=np.float64) * mean) for name in ("isl", "osl"))
    tpot = column(runs, "tpot_s")
    ttft = column(runs, "ttft_s") + tpot * (wait + poll / 2)[:, None]
    running = np.nan_to_num(column(runs, "running")[:, 0], nan=1.0)
    limit = at.decode(np.maximum(1.0, np.floor(running * 0.9)), np.floor(isl + osl * 0.45)).limit
    first = at.prefill(1.0, np.floor(isl * 0.9)).limit
    clients = rows["concurrency"].to_numpy(dtype=np.float64)
    length = rows["osl"].to_numpy(dtype=np.float64)
    rate = clients[:, None] / (tpot + ttft / length[:, None]) / at.plan.devices
    most = clients / (limit + first / length) / at.plan.devices
    full = 1.0 + column(runs, "full")[:, 0]
    start = ranged(ttft, first, first_token=column(runs, "limit_frac")[:, 0])
    return [ranged(tpot, limit), start, ranged(rate, most), Shown(full, full, full, full)]


def _rows(path: Path) -> pd.DataFrame:
    """The aggregated table without duplicates and rows whose degrees were counted twice."""
    needed = ["concurrency", "backend", "model_path", "system", "isl", "osl", "tp_size", "ttft_ms", "tpot_ms"]
    optional = [
        "pp_size",
        "attention_dp_size",
        "moe_tp_size",
        "moe_ep_size",
        "gemm_quant_mode",
        "moe_quant_mode",
        "source_set",
        "duplicate",
        "parallel_suspect",
        "backend_version",
    ]
    frame = read_frame(path, needed, optional)
    drop = frame["duplicate"].fillna(False).astype(bool) | frame["parallel_suspect"].fillna(False).astype(bool)
    frame = degrees(frame[~drop].reset_index(drop=True))
    frame["uniform"] = ~frame["source_set"].fillna("").astype(str).str.startswith("aic-auto-gap")
    return stated(frame)


def clean_rows(path: Path) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """The aggregated rows, and those of them with nothing the matter (:func:`families`)."""
    frame = _rows(path)
    answers = predict_all(frame, KEYS, place, _both, 4)
    return frame, _clean(families(frame, answers[3].predicted), answers[0].predicted)


def labelled(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows with nothing the matter by their labels; whether the cache is full is for the simulation to say."""
    return _clean(families(frame, np.ones(len(frame))), np.ones(len(frame)))


def _clean(family: NDArray[np.str_], tpot: Floats) -> NDArray[np.bool_]:
    return np.isfinite(tpot) & (np.char.find(family, "(") < 0)


def _aggregated(path: Path, ask: Ask) -> Iterator[Comparison]:
    whole = _rows(path)
    chosen = ask.pick(len(whole), path.stem)
    frame = whole.iloc[chosen].reset_index(drop=True)
    machine = frame["system"].map(machine_name)
    answers = predict_all(frame, KEYS, place, _both, 4)
    family = families(frame, answers[3].predicted)
    split = np.where(fitted_rows(whole)[chosen], "fit", "left-out")
    measured = _measured(frame)
    for metric, truth, found in zip(METRICS, measured, answers, strict=False):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine=machine,
            family=family,
            measured=truth,
            **found.columns,
            split=split,
        )
    yield from _lines(ask, whole, frame, chosen, answers, family, split)


METRICS = ("tpot_s", "ttft_s", "tokens_per_s_per_device")


def _measured(frame: pd.DataFrame) -> tuple[Floats, Floats, Floats]:
    """Times, and tokens per second and device as the table derives them."""
    clients, osl = (frame[name].to_numpy(dtype=np.float64) for name in ("concurrency", "osl"))
    tpot, ttft = (frame[name].to_numpy(dtype=np.float64) * 1e-3 for name in ("tpot_ms", "ttft_ms"))
    devices = np.prod([frame[name].to_numpy(dtype=np.float64) for name in ("tp", "pp", "dp")], axis=0)
    return tpot, ttft, clients / (tpot + ttft / osl) / devices


def _lines(
    ask: Ask,
    whole: pd.DataFrame,
    frame: pd.DataFrame,
    chosen: NDArray[np.intp],
    answers: Sequence[Columns],
    family: NDArray[np.str_],
    split: NDArray[np.str_],
) -> Iterator[Comparison]:
    """The lines of ``inferencex_lines`` over the rows asked about, and what is set apart from them."""
    from steelyard_validation.readers.inferencex_lines import replay

    measured = _measured(frame)
    machine = frame["system"].map(machine_name).to_numpy(dtype=np.str_)
    clean = _clean(family, answers[0].predicted)

    def line(name: str, rows: Any, found: Sequence[Any]) -> Iterator[Comparison]:
        for metric, truth, (predicted, low, high, roofline) in zip(METRICS, measured, found, strict=False):
            yield comparison(
                ask,
                LINES_TABLE,
                metric=metric,
                phase="serve",
                machine=machine[rows],
                family=name,
                measured=truth[rows],
                predicted=predicted,
                low=low,
                high=high,
                roofline=roofline,
                split="left-out",
            )

    apart = {
        "shipped figures, left out": clean & (split == "left-out"),
        "apart: cache full": np.char.find(family, "cache full") >= 0,
        "apart: suspected speculative decoding": np.char.find(family, "suspected") >= 0,
        "apart: inconsistent": np.char.find(family, "inconsistent") >= 0,
    }
    for name, rows in apart.items():
        yield from line(name, rows, [(a.predicted[rows], a.low[rows], a.high[rows], a.roofline[rows]) for a in answers])
    ready = np.zeros(len(whole), dtype=bool)
    ready[chosen[clean]] = True
    place_of = np.full(len(whole), -1)
    place_of[chosen] = np.arange(len(chosen))
    for name, index, found in replay(whole, labelled(whole), ready):
        yield from line(name, place_of[index], found)


#: What the lines are called as a table.
LINES_TABLE = "lines"


def fitted_rows(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows of the whole table that the shipped figures of the engines were fitted to."""
    from steelyard_validation.readers.inferencex_lines import EXPERTS, SAME, parts, stored_fits

    known = stored_fits()
    fitted = np.zeros(len(frame), dtype=bool)
    for part in parts(frame, labelled(frame)):
        if part.line in (SAME, EXPERTS) and (part.line, part.name) in known:
            fitted |= part.fit
    return fitted


def families(frame: pd.DataFrame, cache_full: Floats) -> NDArray[np.str_]:
    """Model and engine of each row, and what is the matter with it: such rows are families of their own.

    ``cache full``: the simulation ran out of cache, where results hang on bytes the engines do not publish.
    ``suspected speculative decoding``: releases whose rows move up to twice as fast as the one before, same labels.
    ``inconsistent``: lab rows whose prompts would run at 0.9 of the peak or beyond in the time decodes leave (they were
    cached, or the concurrency is no closed loop's), whose time between tokens does not depend on the load (every expert
    read in every step); rows whose first token takes hundreds of steps without any queue, or whose 512 clients wait for
    minutes at the speed of a few.
    """
    lab = frame["source_set"].fillna("").astype(str)
    version = frame["backend_version"].astype(str)
    drafted = frame["model_path"].str.contains("DeepSeek") & version.str.contains("rc6.post3|0\\.5\\.9|1.1.0rc2")
    odd = lab.str.contains("vllm/0.12.0/nvidia_Llama-3.1-8B")
    odd |= lab.str.contains("vllm/0.12.0/Qwen_Qwen3-235B") | lab.str.contains("b200_sxm/trtllm/1.3.0rc1|1.3.0rc5")
    odd |= (frame["backend"] == "sglang") & (frame["ttft_ms"] > 4000) & (frame["concurrency"] <= 128)
    odd |= frame["model_path"].str.contains("gpt-oss") & (frame["concurrency"] >= 512)
    name = frame["model_path"].str.rpartition("/")[2] + " " + frame["backend"]
    name = name + np.where(odd, " (inconsistent)", "") + np.where(drafted, " (suspected speculative decoding)", "")
    return np.asarray(name + np.where(np.nan_to_num(cache_full) > 1, " (cache full)", ""), dtype=np.str_)


def _positions(path: Path, ask: Ask) -> Iterator[Comparison]:
    """vLLM on eight H200 over growing prompts at a short output, equal lengths; medians over the requests."""
    needed = ["isl", "osl", "concurrency", "model_id", "gpu", "median_ttft_s", "median_tpot_s"]
    optional = ["precision", "engine", "tp", "ep", "n_gpus", "parallel", "num_prompts"]
    frame = read_frame(path, needed, optional)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    frame = frame.rename(columns={"model_id": "model_path", "gpu": "system"})
    words = {
        name: frame[name].astype(object).where(frame[name].notna(), "").astype(str).str.lower()
        for name in ("precision", "parallel", "engine")
    }
    tp = frame["tp"].fillna(frame["n_gpus"]).fillna(1.0).to_numpy(dtype=np.float64)
    devices = frame["n_gpus"].fillna(frame["tp"]).fillna(1.0).to_numpy(dtype=np.float64)
    ranks = words["parallel"].str.contains("dep|dp").to_numpy() & (tp <= 1)
    shared = (frame["ep"].fillna(1.0).to_numpy(dtype=np.float64) > 1) | words["parallel"].str.contains("ep").to_numpy()
    frame = frame.assign(
        gemm_quant_mode=words["precision"].replace({"bf16": "", "fp4": "nvfp4"}),
        moe_quant_mode="",
        pp=1.0,
        backend=words["engine"].replace("", "vllm"),
        dp=np.where(ranks, devices, 1.0),
        tp=tp,
        ep=np.where(shared | ranks, np.where(ranks, devices, tp), 1.0),
        uniform=False,
    )
    answers = predict_all(stated(frame), KEYS, place, _medians, 2)
    for metric, measured, found in zip(("tpot_s", "ttft_s"), ("median_tpot_s", "median_ttft_s"), answers, strict=True):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine=frame["system"].astype(str).map(machine_name),
            family=frame["model_path"].astype(str),
            measured=frame[measured].to_numpy(dtype=np.float64),
            **found.columns,
        )


def _medians(at: Placed, rows: pd.DataFrame) -> list[Shown]:
    """Median time between tokens and to the first, of as many requests of equal length as the row states."""
    loads = []
    for row in rows.to_dict("records"):
        load = load_of(at, row)
        stated_requests = row["num_prompts"]
        requests = load.requests if stated_requests != stated_requests else max(1, int(stated_requests))
        loads.append(replace(load, requests=requests, shortest_frac=1.0))
    runs = Service.of(at, loads).all_closed(loads)
    tpot, ttft, _, _ = figures(at, rows, runs)
    return [shown(runs, "tpot_median_s", tpot.limit), shown(runs, "ttft_median_s", ttft.limit)]
