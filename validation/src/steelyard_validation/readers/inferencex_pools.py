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

from steelyard.cost.kv_pool import KvPool
from steelyard.deployment.engine_config import EngineConfig
from steelyard.errors import InputError
from steelyard.measurements.reader import Ask, Comparison, Floats, comparison, machine_name, read_frame
from steelyard.simulation.arrays import Member, play, setup_of_fleet
from steelyard.simulation.wires import End, wires_between
from steelyard_validation.readers import inferencex
from steelyard_validation.readers._serve import Load, Service, closed_trace
from steelyard_validation.readers._whole import SYSTEM_SPREAD, Asked, Deployment, predict_all

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
SEATS: Final[Mapping[str, str]] = {"sglang": "max_running_requests", "trtllm": "max_num_seqs", "vllm": "max_num_seqs"}
TOKENS: Final[Mapping[str, str]] = {
    "sglang": "chunked_prefill_size",
    "trtllm": "max_num_tokens",
    "vllm": "max_num_batched_tokens",
}
#: Log-space spread of the first token beside the steps' own: routers, hand-over and network are none of ours.
TTFT_SPREAD: Final = 0.6


@dataclass(frozen=True, eq=False)
class Worker:
    """A pool of a row: workers of one shape."""

    at: Deployment
    count: int
    config: EngineConfig
    kv: KvPool
    tables: Any

    def member(self, role: str) -> Member:
        """The pool as the kernel sees it."""
        plan = self.at.plan
        return Member(
            self.config, self.kv, self.count * plan.dp, plan.pp, role, ranks=plan.dp, lockstep=plan.shares_experts
        )

    @property
    def end(self) -> End:
        """The pool as an end of a wire."""
        plan = self.at.plan
        return End(replace(self.at.cluster, count=self.count * plan.devices), plan, self.kv)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means of a run."""

    ttft_s: float
    tpot_s: float
    running: float
    """Mean sequences of a decode step of one rank."""


def play_pools(prefill: Worker, decode: Worker, load: Load) -> Outcome:
    """Play a closed loop over the two pools.

    Raises:
        InputError: a request is longer than a worker's cache, or the run never ended.
    """
    trace = closed_trace(load)
    members = [prefill.member("prefill"), decode.member("decode")]
    longest = min(m.longest for m in members)
    rejected = np.asarray(trace.isl + trace.osl > longest)
    if rejected.any():
        raise InputError("a request is longer than the cache of a worker")
    engine = decode.at.engine
    setup = setup_of_fleet(
        members, trace, wires=wires_between([prefill.end, decode.end]), router=ROUTER, request_s=engine.request_s, log=1
    )
    played = play(setup, [prefill.tables, decode.tables], trace, "fcfs", ROUTER, 0, rejected, 1 << 10)
    if played.totals["stop"]:
        raise InputError("the run does not end: it is served slower than it comes")
    q = played.requests
    n = len(trace)
    stepping = played.per_pool[1]["batch_s"] / n
    answered = float((q["last_at"] - q["first_at"]).mean())
    tpot = stepping / max(float(trace.osl.mean()) - 1.0, 1.0)
    again = tpot if engine.name == "vllm" else 0.0
    # every worker has a server of its own: the request is taken in twice
    ttft = float((q["first_at"] - q["arrived_at"]).mean()) + max(0.0, answered - stepping) + again + engine.request_s
    steps = played.per_pool[1]["busy_s"] * decode.at.plan.pp
    return Outcome(ttft, tpot, played.per_pool[1]["batch_s"] / max(steps, 1e-30))


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
        service = self.services[key]
        config = service.flagged(_flags(found, role, row))
        return Worker(found, int(row[f"{role}_workers"]), config, service.pool(config), service.table.tables)

    def spread(self, role: str, row: Mapping[str, Any]) -> float:
        """Spread of the step times of a row's pool."""
        key = (role, *(str(row[name]) for name in _keys(role)))
        return float(np.hypot(self.services[key].table.spread, SYSTEM_SPREAD))


def _missing(value: Any) -> bool:
    return value is None or value != value


def _keys(role: str) -> list[str]:
    return [f"{role}_{name}" if name in SHAPE else name for name in inferencex.KEYS]


def _seats(at: Deployment, row: Mapping[str, Any]) -> int:
    """Sequences a decode rank takes: its share of the clients and half as many again, or what the row states."""
    ranks = row["decode_workers"] * at.plan.dp
    stated = row["decode_batch_size"]
    return int(max(4.0, np.ceil(1.5 * row["concurrency"] / ranks), 0.0 if _missing(stated) else stated))


def _flags(at: Deployment, role: str, row: Mapping[str, Any]) -> dict[str, Any]:
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


def _service(at: Deployment, role: str, rows: pd.DataFrame) -> Service:
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

    def place(*values: Any) -> Deployment | str:
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
            predicted=found.predicted,
            low=found.low,
            high=found.high,
            roofline=found.roofline,
            why=found.why,
        )


def _devices(rows: pd.DataFrame) -> Floats:
    total = np.zeros(len(rows))
    for role in ("prefill", "decode"):
        names = (f"{role}_workers", f"{role}_tp", f"{role}_pp", f"{role}_dp")
        total += np.prod([rows[n].to_numpy(dtype=np.float64) for n in names], axis=0)
    return total


def _answers(shapes: _Shapes, at: Deployment, rows: pd.DataFrame) -> list[Asked]:
    """Time between tokens, to the first, and tokens per second and device of rows that share both shapes."""
    table = np.full((4, len(rows)), np.nan)
    records = rows.to_dict("records")
    failed: InputError | None = None
    for k, row in enumerate(records):
        prefill, decode = shapes.worker("prefill", row), shapes.worker("decode", row)
        clients = int(row["concurrency"])
        shortest = inferencex.SHORTEST if row["uniform"] else inferencex.LAB_SHORTEST
        load = Load(clients, inferencex.REQUESTS * clients, int(row["isl"]), int(row["osl"]), shortest)
        try:
            found = play_pools(prefill, decode, load)
        except InputError as error:
            failed = error
            continue
        first = prefill.at.prefill(1.0, np.floor(row["isl"] * inferencex.MEAN_LENGTH)).limit_s[0]
        table[:, k] = found.tpot_s, found.ttft_s, found.running, first
    if failed is not None and np.isnan(table[0]).all():
        raise failed
    tpot, ttft, running, first = table
    isl, osl, clients_ = (rows[c].to_numpy(dtype=np.float64) for c in ("isl", "osl", "concurrency"))
    seen = np.maximum(1.0, np.floor(np.nan_to_num(running, nan=1.0) * 0.9))
    limit = at.decode(seen, np.round(inferencex.MEAN_LENGTH * (isl + osl / 2))).limit_s
    width = np.full(len(rows), shapes.spread("decode", records[0]))
    late = np.full(len(rows), np.hypot(shapes.spread("prefill", records[0]), TTFT_SPREAD))
    devices = _devices(rows)
    rate = clients_ / (tpot + ttft / osl) / devices
    return [(tpot, limit, width), (ttft, first, late), (rate, clients_ / (limit + first / osl) / devices, width)]
