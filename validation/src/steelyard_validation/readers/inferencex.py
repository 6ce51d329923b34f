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
from types import MappingProxyType
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
from steelyard.scenario.recipes import Facts, Recipe, recipes
from steelyard.traffic.build import Traffic, traffic
from steelyard_validation.readers._serve import Load, Outcome, Played, Service, column, played_all, ranged, shown
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

#: Requests per client of an InferenceX run (``num_prompts = 10 x concurrency``).
REQUESTS = 10
KEYS = [
    "model_path",
    "system",
    "backend",
    "gemm_quant_mode",
    "moe_quant_mode",
    "tp",
    "pp",
    "dp",
    "ep",
    "stated",
    "uniform",
]


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


def recipe_of(engine: str, family: str, public: bool) -> Recipe | None:
    """The conditions a row was measured under: InferenceX's published scripts, or the laboratory's; None: not known."""
    name = f"inferencex-2026-02/{engine}-{family}" if public else f"nvidia-lab/{engine}"
    return recipes().get(name)


def facts_of(at: Placed, row: Mapping[str, Any] = MappingProxyType({})) -> Facts:
    """What cases of a recipe look at: the deployment, and what a row states of the load."""
    machine, shapes, plan = at.cluster.machine, at.transformer, at.plan
    load = {name: int(row[name]) for name in ("isl", "osl", "concurrency") if name in row}
    facts = {"family": machine.family, "machine": machine.name, "weights": plan.weights, "tp": plan.tp, "dp": plan.dp}
    return {**facts, "experts": bool(shapes.experts), "latent": shapes.latent, **load}


def place(
    model: str,
    system: str,
    backend: str,
    gemm: Any,
    moe: Any,
    tp: float,
    pp: float,
    dp: float,
    ep: float,
    stated: bool,
    public: bool = True,
) -> Placed | str:
    """The deployment of a row: what it states, and what the recipe says of formats and experts."""
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
    weights = "" if "gpt-oss" in model else weights  # published in MXFP4 and run as such
    engine = str(backend).lower().replace("tensorrt-llm", "trtllm")
    degrees: dict[str, Any] = {"tp": int(tp), "pp": int(pp), "dp": int(dp), "ep": int(ep)}
    found = deploy(model, system, weights=weights, engine=engine, **degrees)
    recipe = None if isinstance(found, str) else recipe_of(engine, found.cluster.machine.family, bool(public))
    if isinstance(found, str) or recipe is None:
        return found
    words, flags = recipe.said(facts_of(found))
    kv = words.get("kv", "") if modes else ""
    found = deploy(
        model, system, weights=weights, activations=words.get("activations", ""), kv=kv, engine=engine, **degrees
    )
    if isinstance(found, str):
        return found
    library = flags.get("all_reduce", found.engine.all_reduce)
    return replace(found, engine=replace(found.engine, all_reduce=library), skew=float(words.get("skew", 0.0)))


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
    recipe = recipe_of(at.engine.name, at.cluster.machine.family, bool(rows["uniform"].iloc[0]))
    known = recipe.system_spread if recipe else 0.0
    return figures(at, rows, Service.of(at, loads, known).all_closed(loads))


def load_of(at: Placed, row: Mapping[str, Any]) -> Load:
    """The closed loop of a row, with the lengths and the flags that its recipe sets (else the engine's defaults)."""
    clients, isl, osl = int(row["concurrency"]), int(row["isl"]), int(row["osl"])
    recipe = recipe_of(at.engine.name, at.cluster.machine.family, bool(row["uniform"]))
    if recipe is None:
        return Load(clients, REQUESTS * clients, isl, osl)
    _, flags = recipe.said(facts_of(at, row))
    return Load(clients, REQUESTS * clients, isl, osl, recipe.shares[0], tuple(flags.items()))


def as_user(
    model: str,
    system: str,
    backend: str,
    gemm: Any,
    moe: Any,
    tp: float,
    pp: float,
    dp: float,
    ep: float,
    stated: bool,
    public: bool = True,
) -> Placed | str:
    """The deployment as a user asks for it: model and its format, machine, degrees and engine; all else by default."""
    found = place(model, system, backend, gemm, moe, tp, pp, dp, ep, stated, public)
    if isinstance(found, str):
        return found
    weights = "" if "gpt-oss" in model else found.plan.weights
    asked: dict[str, Any] = {"tp": int(tp), "pp": int(pp), "dp": int(dp), "ep": int(ep), "weights": weights}
    return deploy(model, system, engine=found.engine.name, **asked)


#: Lengths of InferenceX are uniform from this share of those it names (``--random-range-ratio``).
PUBLISHED_SPREAD = 0.8


def _plain(at: Placed, rows: pd.DataFrame) -> list[Shown]:
    """:func:`_both` of ``simulate --concurrency C --isl uniform:0.8-1.0xI --osl uniform:0.8-1.0xO``, nothing besides.

    The spread is published with the load; the laboratory states none: ``--isl I --osl O``.
    """
    stated = rows.to_dict("records")
    loads = [
        Load(int(r["concurrency"]), REQUESTS * int(r["concurrency"]), int(r["isl"]), int(r["osl"])) for r in stated
    ]
    service = Service.of(at, loads)

    def played(row: Mapping[Any, Any]) -> Played:
        isl, osl = int(row["isl"]), int(row["osl"])
        asked = Traffic(concurrency=int(row["concurrency"]), isl=isl, osl=osl)
        if row["uniform"]:
            span = f"uniform:{PUBLISHED_SPREAD}-1.0x"
            asked = replace(asked, isl=f"{span}{isl}", osl=f"{span}{osl}")
        return service.play(traffic(asked), {})

    return figures(at, rows, played_all(stated, played))


def figures(at: Placed, rows: pd.DataFrame, runs: Sequence[Sequence[Outcome]]) -> list[Shown]:
    """What the table measured of each run, as ``simulate`` shows it, with the datasheet's figure."""
    mean = np.asarray([(1.0 + load_of(at, row).shortest_frac) / 2 for row in rows.to_dict("records")])
    isl, osl = (np.round(rows[name].to_numpy(dtype=np.float64) * mean) for name in ("isl", "osl"))
    tpot = column(runs, "tpot_s")
    ttft = column(runs, "ttft_s")
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
    asked = predict_all(frame, KEYS, as_user, _plain, 4)
    family = families(frame, answers[3].predicted)
    split = np.where(fitted_rows(whole)[chosen], "fit", "left-out")
    measured = _measured(frame)
    for phase, found_all in (("serve", answers), (AS_USER, asked)):
        for metric, truth, found in zip(METRICS, measured, found_all, strict=False):
            yield comparison(
                ask,
                path.stem,
                metric=metric,
                phase=phase,
                machine=machine,
                family=family,
                measured=truth,
                **found.columns,
                split=split,
            )
    yield from _lines(ask, whole, frame, chosen, (answers, asked), family, split)


#: The phase of rows that are asked as a user does who states model, machine, degrees, engine and load, no recipe.
AS_USER = "as a user"
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
    both: tuple[Sequence[Columns], Sequence[Columns]],
    family: NDArray[np.str_],
    split: NDArray[np.str_],
) -> Iterator[Comparison]:
    """The lines of ``inferencex_lines`` over the rows asked about, and what is set apart from them."""
    from steelyard_validation.readers.inferencex_lines import replay

    answers, asked = both
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

    kept = clean & (split == "left-out")
    yield from line(
        LEFT_OUT_AS_USER, kept, [(a.predicted[kept], a.low[kept], a.high[kept], a.roofline[kept]) for a in asked]
    )
    apart = {
        "shipped figures, left out": kept,
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
#: The line of clean rows left out of the fit that are asked as a user does.
LEFT_OUT_AS_USER = "shipped figures, left out, as a user"


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
