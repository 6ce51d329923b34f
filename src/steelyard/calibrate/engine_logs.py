"""``steelyard calibrate --engine``: an engine's host times from the logs of benchmarks of one deployment.

Every log's load (its lengths and arrivals) is replayed through the simulator; the times of the engine are fitted until
mean, median and 90th percentile of the measured times agree (:func:`~steelyard.calibrate.fit_engine.fit_engine`). Of
three or more logs every third is left out of a first fit, which says how far the figures carry; what is written is
fitted to all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.fit_engine import EngineFit, fit_engine, values_of
from steelyard.calibrate.toml_files import document, write_files
from steelyard.deployment.engine import Engine, reload_engines
from steelyard.errors import InputError
from steelyard.folders import folder_to_write
from steelyard.scenario.scenario import Scenario
from steelyard.simulation.api import options_of, prepare_scenario
from steelyard.simulation.prepared import Prepared, prepare
from steelyard.simulation.replay import read_log
from steelyard.simulation.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FITTED", "EngineCalibration", "LogScore", "calibrate_engine", "engine_file", "write_engine"]

Floats = NDArray[np.float64]

#: What is fitted. A log of one model cannot tell ``layer_s`` from ``step_s``.
FITTED: Final = ("step_s", "step_s_per_sequence", "request_s")
#: Log-space noise of the mean of a run: repeats of a run differ by a percent.
NOISE: Final = (0.01, 0.02)
#: Every how many logs one is left out.
LEAVE_OUT: Final = 3
#: Gauss-Newton steps.
ROUNDS: Final = 8
#: Percentiles compared beside the mean.
PERCENTILES: Final = (50.0, 90.0)


@dataclass(frozen=True, slots=True)
class LogScore:
    """Errors of the mean times of one log, simulated over measured less one."""

    name: str
    load: str
    requests: int
    left_out: bool
    """Not in the fit that ``after`` is of."""
    tpot_before: float
    tpot_after: float
    ttft_before: float
    ttft_after: float


@dataclass(frozen=True, slots=True)
class EngineCalibration:
    """What a calibration found."""

    engine: Engine
    before: Mapping[str, float]
    """The fitted figures as they were, s."""
    after: Mapping[str, float]
    logs: tuple[LogScore, ...]
    bounds: tuple[str, ...]
    """Figures that ended at zero: the kernels alone are predicted slower than the log."""


def calibrate_engine(
    words: Mapping[str, Any],
    files: Sequence[str],
    *,
    rate: str = "",
    concurrency: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EngineCalibration:
    """Fit :data:`FITTED` of a deployment's engine to logs.

    Args:
        words: what was measured: fields of ``simulate`` without a load.
        files: logs of ``vllm bench serve``, aiperf, guidellm, or records of requests, one load each.
        rate, concurrency: how requests were sent, where the logs do not say.

    Raises:
        InputError: a log cannot be read or has no times, or nothing of it fits the deployment.
    """
    if not files:
        raise InputError("give the logs of one or more benchmark runs", field="engine")
    logs = [read_log(f, rate=rate, concurrency=concurrency, seed=words.get("seed", 0)) for f in files]
    scenarios = [Scenario.of("simulate", **{**words, "trace": log.trace}) for log in logs]
    served = [prepare_scenario(s, replace(options_of(s), log=1)) for s in scenarios]
    start = served[0].first.scenario.engine
    measured = [_statistics(x.recorded.tpot_s, x.recorded.ttft_s) for x in logs]
    for name, (tpot, ttft) in zip(files, measured, strict=True):
        if not np.isfinite(tpot).any() and not np.isfinite(ttft).any():
            raise InputError(f"{name} has neither times to first token nor times per output token", field="engine")

    def fit(chosen: Sequence[int]) -> EngineFit:
        def predict(engine: Engine) -> tuple[Floats, Floats]:
            answers = [_simulated(served[i], engine) for i in chosen]
            return np.concatenate([a for a, _ in answers]), np.concatenate([b for _, b in answers])

        return fit_engine(
            start,
            FITTED,
            predict,
            np.concatenate([measured[i][0] for i in chosen]),
            np.concatenate([measured[i][1] for i in chosen]),
            noise=NOISE,
            rounds=ROUNDS,
        )

    every = range(len(logs))
    left = [i for i in every if len(logs) >= LEAVE_OUT and i % LEAVE_OUT == LEAVE_OUT - 1]
    kept = [i for i in every if i not in left]
    parts = 2 if left else 1
    if progress:
        progress("fitting", 0, parts)
    judged = fit(kept)
    if progress:
        progress("fitting all", 1, parts)
    final = fit(list(every)) if left else judged
    scores = []
    for i in every:
        pairs = [_simulated(served[i], engine) for engine in (start, judged.engine)]
        errors = [[float(found[0] / true[0] - 1.0) for found, true in zip(p, measured[i], strict=True)] for p in pairs]
        scores.append(
            LogScore(
                Path(files[i]).name,
                logs[i].load,
                len(logs[i].trace),
                i in left,
                errors[0][0],
                errors[1][0],
                errors[0][1],
                errors[1][1],
            )
        )
    zero = tuple(name for name, value in final.values.items() if value == 0.0)
    return EngineCalibration(final.engine, values_of(start, FITTED), final.values, tuple(scores), zero)


def _statistics(tpot: Any, ttft: Any) -> tuple[Floats, Floats]:
    """Mean and :data:`PERCENTILES` of both times; NaN where a log has none."""
    found = []
    for values in (tpot, ttft):
        x = np.asarray([] if values is None else values, dtype=np.float64)
        x = x[np.isfinite(x)]
        found.append(np.array([x.mean(), *np.percentile(x, PERCENTILES)]) if x.size else np.full(3, math.nan))
    return found[0], found[1]


def _simulated(prepared: Prepared, engine: Engine) -> tuple[Floats, Floats]:
    """The same figures of a log's load, simulated with another engine."""
    first = prepared.first.scenario
    clusters = [replace(first.cluster, count=first.plan.devices)]
    question = (prepared.deployment, prepared.trace, prepared.options)
    records = run(prepare(*question, model=first.model, clusters=clusters, engine=engine), 0.0).records
    return _statistics(records.tpot_s, records.ttft_s)


def engine_file(found: EngineCalibration, source: str) -> str:
    """The catalogue file of a calibrated engine."""
    engine = found.engine
    plain = {f.name: _plain(getattr(engine, f.name)) for f in fields(Engine) if f.name != "moved"}
    plain["guess"] = [g for g in engine.guess if g not in found.after]
    comments = (f"{', '.join(found.after)} fitted by `steelyard calibrate --engine` to {source}",)
    return document({"engine": [plain]}, comments)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [asdict(v) if hasattr(v, "__dataclass_fields__") else v for v in value]
    return value


def write_engine(found: EngineCalibration, source: str, out: str = "") -> Path:
    """Write ``engines/NAME.toml`` below ``out`` (default: the user's catalogue), where it wins over ours."""
    folder = folder_to_write(out)
    path = write_files(folder, {f"engines/{found.engine.name}.toml": engine_file(found, source)})[0]
    reload_engines()
    return path
