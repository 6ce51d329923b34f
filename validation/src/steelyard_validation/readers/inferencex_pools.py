"""Rows of InferenceX whose prompts and answers are computed by workers of their own, played through the simulator.

Each row is a closed loop of ``concurrency`` clients, lengths uniform in ``[0.8 L, L]``, in front of a pool of prefill
workers and a pool of decode workers of the row's shapes. A prompt's cache travels over the links of the node where all
workers fit one node, else over the network. Rows that share a pool's shape share its step table.

The first token reaches the client when the decode worker has the cache and the request joins its batch (TensorRT-LLM
and SGLang hand the prefill's token over with the cache; vLLM's connector computes it again, one step later), so

    ttft = end of prompt + W + hand-over,   W = mean(last - first) - (time in decode steps per request)
    tpot = time in decode steps per request / (mean osl - 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.errors import InputError
from steelyard.measurements.reader import Ask, Comparison, Floats, comparison, machine_name, read_frame
from steelyard.simulation.metrics import ends
from steelyard.simulation.prepared import Served, checked, too_long
from steelyard.simulation.result import Simulation
from steelyard.simulation.run import run
from steelyard.simulation.wires import End, wires_between
from steelyard_validation.readers import inferencex
from steelyard_validation.readers._serve import Load, Service, closed_trace, ranged
from steelyard_validation.readers._whole import Placed, Shown, predict_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Outcome", "Worker", "disaggregated", "play_pools"]

NEEDED: Final = ("concurrency", "backend", "model_path", "system", "isl", "osl", "ttft_ms", "tpot_ms")
OPTIONAL: Final = (
    "gemm_quant_mode",
    "moe_quant_mode",
    "source_set",
    "duplicate",
    "parallel_suspect",
    "backend_version",
    *(
        f"{pool}_{name}"
        for pool in ("prefill", "decode")
        for name in (
            "batch_size",
            "num_workers",
            "tp_size",
            "pp_size",
            "attention_dp_size",
            "moe_tp_size",
            "moe_ep_size",
        )
    ),
)
#: What chooses a pool's deployment, after the columns of :data:`~inferencex.KEYS` they stand for.
SHAPE: Final = ("tp", "pp", "dp", "ep")
#: How requests find a prefill worker: Dynamo's and SGLang's routers take the one with the least to do.
ROUTER: Final = "least-loaded"
#: Prompt tokens of a step of a prefill worker, all ranks together: SGLang's ``chunked-prefill-size`` and TensorRT-LLM's
#: ``max_num_tokens`` of the published configurations lie at 8k to 32k; longer prompts go whole in TensorRT-LLM.
CHUNK: Final[Mapping[str, int]] = {"sglang": 16384, "trtllm": 8192, "vllm": 8192}
#: Share of memory, by engine: as the aggregated scripts of models with experts set it.
MEMORY: Final[Mapping[str, dict[str, float]]] = {
    "sglang": {"mem_fraction_static": 0.82},
    "trtllm": {"free_gpu_memory_fraction": 0.8},
    "vllm": {"gpu_memory_utilization": 0.9},
}
#: Mean lengths over those named (uniform from 0.8 of them), for the physical limit.
MEAN_LENGTH: Final = 0.9
SEATS: Final[Mapping[str, str]] = {"sglang": "max_running_requests", "trtllm": "max_num_seqs", "vllm": "max_num_seqs"}
TOKENS: Final[Mapping[str, str]] = {
    "sglang": "chunked_prefill_size",
    "trtllm": "max_num_tokens",
    "vllm": "max_num_batched_tokens",
}


@dataclass(frozen=True, eq=False)
class Worker:
    """A pool of a row: workers of one shape."""

    service: Service
    count: int
    flags: Mapping[str, Any]

    @property
    def at(self) -> Placed:
        """The deployment of one worker."""
        return self.service.at

    def served(self, role: str) -> Served:
        """The pool as ``simulate`` prepares it. Raises when a worker's cache has no room."""
        known = self.service.asked(closed_trace(Load(1, 1, 1, 1)), self.flags).first
        pool = replace(known.pool, replicas=self.count, role=role)
        cluster = replace(self.at.cluster, count=pool.devices)
        return replace(known, pool=pool, scenario=replace(known.scenario, cluster=cluster))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means of a run."""

    ttft_s: float
    tpot_s: float
    running: float
    """Mean sequences of a decode step of one rank."""


def play_pools(prefill: Worker, decode: Worker, load: Load) -> list[Outcome]:
    """Simulate a closed loop over the two pools: the run, then both ends of its interval.

    Raises:
        InputError: a request is longer than a worker's cache, or the run never ended.
    """
    trace = closed_trace(load)
    served = (prefill.served("prefill"), decode.served("decode"))
    rejected = too_long(trace, served)
    if rejected.any():
        raise InputError("a request is longer than the cache of a worker")
    known = decode.service.prepared
    order, router = checked(known.options, ROUTER, trace)
    deployment = replace(known.deployment, pools=tuple(s.pool for s in served), router=router)
    wires = wires_between([End(s.scenario.cluster, s.scenario.plan, s.kv) for s in served])
    asked = {"trace": trace, "policy": order, "rejected": rejected, "wires": wires, "served": served}
    middle = run(replace(known, deployment=deployment, **asked), 0.0)
    return [_outcome(simulation, decode.at) for simulation in (middle, *ends(middle))]


def _outcome(simulation: Simulation, decode: Placed) -> Outcome:
    if simulation.stopped:
        raise InputError("the run does not end: it is served slower than it comes")
    r, totals = simulation.records, simulation.pools[1].totals
    stepping = totals["batch_s"] / len(r.osl)
    answered = float((r.e2e_s - r.ttft_s).mean())
    tpot = stepping / max(float(r.osl.mean()) - 1.0, 1.0)
    again = tpot if decode.engine.name == "vllm" else 0.0
    # every worker has a server of its own: the request is taken in twice
    ttft = float(r.ttft_s.mean()) + max(0.0, answered - stepping) + again + decode.engine.request_s
    return Outcome(ttft, tpot, totals["batch_s"] / max(totals["busy_s"] * decode.plan.pp, 1e-30))


@dataclass(eq=False)
class _Shapes:
    """Pools by shape, with step tables that cover every row of the table that uses the shape."""

    frame: pd.DataFrame
    services: dict[tuple[Any, ...], Service] = field(default_factory=dict)

    def worker(self, role: str, row: Mapping[str, Any]) -> Worker:
        """The pool of a row. Raises :class:`InputError` with the reason when there is none."""
        values = tuple(row[name] for name in _keys(role))
        found = inferencex.place(*values)
        if isinstance(found, str):
            raise InputError(f"{role} workers: {found}")
        key = (role, *(str(v) for v in values))
        if key not in self.services:
            mine = np.ones(len(self.frame), dtype=bool)
            for name, value in zip(_keys(role), values, strict=True):
                column = self.frame[name]
                mine &= np.asarray(column.isna() if _missing(value) else column == value)
            self.services[key] = _service(found, role, self.frame[mine & self.frame["stated"].to_numpy()])
        return Worker(self.services[key], int(row[f"{role}_workers"]), _flags(found, role, row))


def _missing(value: Any) -> bool:
    return value is None or value != value


def _keys(role: str) -> list[str]:
    return [f"{role}_{name}" if name in SHAPE else name for name in inferencex.KEYS]


def _seats(at: Placed, row: Mapping[str, Any]) -> int:
    """Sequences a decode rank takes: its share of the clients and half as many again, or what the row states."""
    ranks = row["decode_workers"] * at.plan.dp
    stated = row["decode_batch_size"]
    return int(max(4.0, np.ceil(1.5 * row["concurrency"] / ranks), 0.0 if _missing(stated) else stated))


def _flags(at: Placed, role: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Engine flags of a pool."""
    name = at.engine.name
    if name not in SEATS:
        return {}
    flags: dict[str, Any] = dict(MEMORY[name])
    if role == "decode":
        return {**flags, SEATS[name]: _seats(at, row)}
    tokens = CHUNK[name] // (at.plan.dp if name == "sglang" else 1)
    if name == "trtllm":
        tokens = max(tokens, int(row["isl"]) + 64)
    return {**flags, TOKENS[name]: max(tokens, 512)}


def _service(at: Placed, role: str, rows: pd.DataFrame) -> Service:
    """The service whose tables cover the rows."""
    records = rows.to_dict("records")
    configs = [Service(at, 2, 2, 2).flagged(_flags(at, role, row)) for row in records]
    longest = int((rows["isl"] + rows["osl"]).max())
    most = max(int(row["concurrency"]) for row in records)
    budget = max(c.max_num_batched_tokens for c in configs)
    if role == "prefill":
        budget = min(budget, most * int(rows["isl"].max() + 1))
    return Service(at, longest, budget, max(2, max(min(c.max_num_seqs, most) for c in configs)))


def _frame(path: Path, ask: Ask) -> pd.DataFrame:
    frame = read_frame(path)
    missing = [name for name in (*NEEDED, *OPTIONAL) if name not in frame]
    frame = frame.assign(**dict.fromkeys(missing, np.nan))
    twice = frame["duplicate"].astype(object).where(frame["duplicate"].notna(), False).astype(bool)
    frame = frame[~twice].reset_index(drop=True)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    for name in ("concurrency", "isl", "osl", "ttft_ms", "tpot_ms", *(n for n in OPTIONAL if n.count("_") > 1)):
        if name.startswith(("prefill_", "decode_")) or name in NEEDED:
            frame[name] = np.asarray(_numbers(frame[name]), dtype=np.float64)
    for role in ("prefill", "decode"):
        shaped = inferencex.degrees(frame, f"{role}_")
        known = frame[f"{role}_tp_size"].notna().to_numpy()
        frame = frame.assign(**{f"{role}_{name}": shaped[name].to_numpy() for name in SHAPE})
        frame[f"{role}_workers"] = frame[f"{role}_num_workers"].fillna(1.0).clip(lower=1.0)
        frame[f"{role}_known"] = known
    frame = inferencex.stated(frame)
    frame["stated"] &= frame["prefill_known"] & frame["decode_known"]
    lab = frame["source_set"].astype(object).fillna("").astype(str).str.startswith("aic-auto-gap")
    return frame.assign(backend=[_engine(str(x)) for x in frame["backend"]], uniform=~lab)


def _numbers(column: pd.Series[Any]) -> Any:
    import pandas as pd

    return pd.to_numeric(column, errors="coerce")


def _engine(text: str) -> str:
    """The engine behind a name such as ``dynamo-trtllm`` or ``mori-sglang``."""
    name = text.lower().replace("tensorrt-llm", "trtllm").replace("dynamo-trt", "trtllm")
    return next((known for known in SEATS if known in name), name)


def disaggregated(path: Path, ask: Ask) -> Iterator[Comparison]:
    """Times to first token and between tokens, and tokens per second over the devices of both pools."""
    frame = _frame(path, ask)
    shapes = _Shapes(frame)
    keys = [*_keys("decode"), *(f"prefill_{name}" for name in SHAPE)]

    def place(*values: Any) -> Placed | str:
        return inferencex.place(*values[: len(inferencex.KEYS)])

    answers = predict_all(frame, keys, place, partial(_answers, shapes), 3)
    name = frame["model_path"].astype(str).str.rpartition("/")[2]
    family = name + " " + frame["backend"].astype(str) + " disaggregated"
    suspect = frame["parallel_suspect"].astype(object).where(frame["parallel_suspect"].notna(), False).astype(bool)
    family = family + np.where(suspect, " (degrees suspect)", "")
    tpot, ttft = (frame[c].to_numpy(dtype=np.float64) * 1e-3 for c in ("tpot_ms", "ttft_ms"))
    with np.errstate(invalid="ignore", divide="ignore"):
        osl = frame["osl"].to_numpy(dtype=np.float64)
        rate = frame["concurrency"].to_numpy(dtype=np.float64) / (tpot + ttft / osl) / _devices(frame)
    for metric, truth, found in zip(inferencex.METRICS, (tpot, ttft, rate), answers, strict=True):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine=frame["system"].astype(str).map(machine_name),
            family=family,
            measured=truth,
            **found.columns,
        )


def _devices(rows: pd.DataFrame) -> Floats:
    total = np.zeros(len(rows))
    for role in ("prefill", "decode"):
        names = (f"{role}_workers", f"{role}_tp", f"{role}_pp", f"{role}_dp")
        total += np.prod([rows[n].to_numpy(dtype=np.float64) for n in names], axis=0)
    return total


def _answers(shapes: _Shapes, at: Placed, rows: pd.DataFrame) -> list[Shown]:
    """Time between tokens, to the first, and tokens per second and device of rows that share both shapes."""
    times, first = np.full((2, len(rows), 3), np.nan), np.full(len(rows), np.nan)
    running = np.ones(len(rows))
    failed: InputError | None = None
    for k, row in enumerate(rows.to_dict("records")):
        prefill, decode = shapes.worker("prefill", row), shapes.worker("decode", row)
        load = replace(inferencex.load_of(at, row), flags=())
        try:
            found = play_pools(prefill, decode, load)
        except InputError as error:
            failed = error
            continue
        times[:, k] = [x.tpot_s for x in found], [x.ttft_s for x in found]
        running[k] = found[0].running
        first[k] = prefill.at.prefill(1.0, np.floor(row["isl"] * MEAN_LENGTH)).limit[0]
    tpot, ttft = times
    if failed is not None and np.isnan(tpot).all():
        raise failed
    isl, osl, clients_ = (rows[c].to_numpy(dtype=np.float64) for c in ("isl", "osl", "concurrency"))
    held = np.maximum(1.0, np.floor(running * 0.9))
    limit = at.decode(held, np.round(MEAN_LENGTH * (isl + osl / 2))).limit
    per_device = clients_ / _devices(rows)
    rate = per_device[:, None] / (tpot + ttft / osl[:, None])
    start = ranged(ttft, first, first_token=0.0)
    return [ranged(tpot, limit), start, ranged(rate, per_device / (limit + first / osl))]
