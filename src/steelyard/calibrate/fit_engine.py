"""Fitting an engine's times to measured loads by replaying them: a few physical figures, held near what they were.

    minimise  sum_r huber(log(predicted_r / measured_r) / noise) + sum_p ((x_p - start_p) / give_p)^2

over the parameters of :data:`PARAMETERS` that are named, each inside its bounds, by Gauss-Newton steps with finite
differences (a simulation is smooth in the times of its steps, up to events that change order). The second term is what
keeps a parameter that the loads say nothing about where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.engine import Engine, KernelSpeed

__all__ = ["PARAMETERS", "EngineFit", "Parameter", "fit_engine", "tuned", "values_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A figure of an engine that loads can tell: its bounds, and how far it plausibly lies from where it was."""

    name: str
    low: float
    high: float
    give: float
    """Standard deviation of what is known beforehand, in its unit; of the logarithm for a ratio."""
    ratio: bool = False


#: What may be fitted. Times of the host; time per kernel outside captured graphs; speeds of the engine's own kernels
#: over the benchmarked ones (:class:`~steelyard.deployment.engine.KernelSpeed`), named with the family of machines and
#: the format of weights they are for: ``gemm.stream:hopper:fp8``.
PARAMETERS: Final[Mapping[str, Parameter]] = {
    p.name: p
    for p in (
        Parameter("step_s", 0.0, 20e-3, 2e-3),
        Parameter("step_s_per_sequence", 0.0, 400e-6, 20e-6),
        Parameter("layer_s", 0.0, 200e-6, 20e-6),
        Parameter("request_s", 0.0, 0.5, 30e-3),
        Parameter("launch_s", 0.0, 300e-6, 30e-6),
        Parameter("gemm.stream", 0.6, 1.6, 0.1, True),
        Parameter("gemm.arithmetic", 0.5, 1.6, 0.15, True),
        Parameter("moe.stream", 0.6, 1.6, 0.1, True),
        Parameter("moe.arithmetic", 0.4, 1.6, 0.2, True),
        Parameter("moe.saved_s", 0.0, 60e-6, 15e-6),
    )
}
#: Log-space noise of a measured row: the smoothness of measured series in their load (TPOT 2 %, TTFT 4 %) with what the
#: op models leave open.
TPOT_NOISE, TTFT_NOISE = 0.05, 0.12
#: Residuals beyond so many times the noise count linearly.
HUBER = 1.5
#: Finite difference, in units of ``give``.
DIFFERENCE = 0.2
#: The longest step of an iteration, in units of ``give``.
LONGEST = 2.0
#: An iteration that gains less of the objective is the last.
GAIN = 2e-3

Predict = Callable[[Engine], tuple[Floats, Floats]]
"""(time per output token, time to first token) of every measured row under an engine; NaN where it has no answer."""


@dataclass(frozen=True, slots=True)
class EngineFit:
    """An engine with fitted figures."""

    engine: Engine
    values: Mapping[str, float]
    before: Mapping[str, float]
    """Median absolute error of the fitted rows before, %: ``tpot``, ``ttft``; ``after`` likewise."""
    after: Mapping[str, float]
    rows: int


def values_of(engine: Engine, names: Sequence[str]) -> dict[str, float]:
    """The figures an engine has now."""
    return {name: _value(engine, name) for name in names}


def _value(engine: Engine, name: str) -> float:
    figure, *rest = name.split(":")
    kind, dot, field = figure.partition(".")
    return float(getattr(_speed(engine, kind, *rest), field) if dot else getattr(engine, name))


def _speed(engine: Engine, kind: str, family: str, weights: str = "") -> KernelSpeed:
    return engine.speed(kind, family, weights) or KernelSpeed(kind, family, weights)


def tuned(engine: Engine, values: Mapping[str, float]) -> Engine:
    """The engine with these figures."""
    times: dict[str, Any] = {name: value for name, value in values.items() if ":" not in name}
    kernels = {(k.kind, k.family, k.format): k for k in engine.kernels}
    for name, value in values.items():
        if ":" in name:
            figure, family, *rest = name.split(":")
            kind, _, field = figure.partition(".")
            weights = rest[0] if rest else ""
            now = kernels.get((kind, family, weights)) or replace(_speed(engine, kind, family, weights), format=weights)
            changed: dict[str, Any] = {field: value}
            kernels[kind, family, weights] = replace(now, **changed)
    return replace(engine, kernels=tuple(kernels.values()), **times)


def fit_engine(
    engine: Engine,
    names: Sequence[str],
    predict: Predict,
    tpot_s: Floats,
    ttft_s: Floats,
    *,
    noise: tuple[float, float] = (TPOT_NOISE, TTFT_NOISE),
    rounds: int = 4,
) -> EngineFit:
    """The engine whose replay comes nearest to the measured rows.

    Args:
        engine: where to start, and what the figures are held near.
        names: of :data:`PARAMETERS`.
        predict: the replay.
        tpot_s, ttft_s: measured, one per row; NaN where a row has none.
        noise: log-space noise of the two.
        rounds: Gauss-Newton steps at most, each ``len(names) + 1`` replays.
    """
    chosen = [PARAMETERS[name.partition(":")[0]] for name in names]
    start = values_of(engine, names)
    origin = np.array([_inner(p, start[name]) for p, name in zip(chosen, names, strict=True)])
    low = np.array([_inner(p, p.low) for p in chosen])
    high = np.array([_inner(p, p.high) for p in chosen])
    give = np.array([p.give for p in chosen])
    measured = np.log(np.concatenate([tpot_s, ttft_s]))
    width = np.concatenate([np.full(tpot_s.size, noise[0]), np.full(ttft_s.size, noise[1])])

    def values(at: Floats) -> dict[str, float]:
        return {name: _outer(p, x) for p, name, x in zip(chosen, names, at, strict=True)}

    def residual(at: Floats) -> Floats:
        found = np.concatenate(predict(tuned(engine, values(at))))
        with np.errstate(invalid="ignore", divide="ignore"):
            off = (np.log(found) - measured) / width
        return np.where(np.isfinite(off), off, 0.0)

    def cost(off: Floats, at: Floats) -> float:
        size = np.abs(off)
        robust = np.where(size <= HUBER, size**2, 2 * HUBER * size - HUBER**2)
        return float(robust.sum() + (((at - origin) / give) ** 2).sum())

    at = np.clip(origin, low, high)
    off = residual(at)
    first, best = off, cost(off, at)
    for _ in range(rounds):
        columns = []
        for i in range(len(chosen)):
            step = DIFFERENCE * give[i] if at[i] + DIFFERENCE * give[i] <= high[i] else -DIFFERENCE * give[i]
            moved = at.copy()
            moved[i] += step
            columns.append((residual(moved) - off) / step)
        slope = np.stack(columns, axis=1)
        weight = np.minimum(1.0, HUBER / np.maximum(np.abs(off), 1e-12))
        normal = (slope.T * weight) @ slope + np.diag(give**-2.0)
        pull = (slope.T * weight) @ off + (at - origin) / give**2
        longest, gained = LONGEST, False
        while longest > LONGEST / 20:
            move = np.clip(_bounded(normal, pull, low - at, high - at), -longest * give, longest * give)
            trial = np.clip(at + move, low, high)
            tried = residual(trial)
            value = cost(tried, trial)
            if value < best:
                gained = value < best * (1.0 - GAIN)
                at, off, best = trial, tried, value
                break
            longest /= 4
        if not gained:
            break
    n = tpot_s.size
    best_values = values(at)
    return EngineFit(
        tuned(engine, best_values), best_values, _medians(first * width, n), _medians(off * width, n), int(n)
    )


def _inner(parameter: Parameter, value: float) -> float:
    return float(np.log(value)) if parameter.ratio else value


def _outer(parameter: Parameter, value: float) -> float:
    return float(np.exp(value)) if parameter.ratio else float(value)


def _bounded(normal: Floats, pull: Floats, low: Floats, high: Floats) -> Floats:
    """The minimum of ``move normal move / 2 + pull move`` inside bounds: those that bind are held, one by one."""
    scale = 1.0 / np.sqrt(np.diag(normal))
    scaled, right = normal * np.outer(scale, scale), pull * scale
    move = np.zeros_like(pull)
    held = np.zeros(pull.size, dtype=bool)
    for _ in range(pull.size + 1):
        free = np.flatnonzero(~held)
        if not free.size:
            break
        fixed = np.flatnonzero(held)
        target = right[free] + scaled[np.ix_(free, fixed)] @ (move[fixed] / scale[fixed])
        move[free] = -np.linalg.solve(scaled[np.ix_(free, free)], target) * scale[free]
        outside = free[(move[free] < low[free] - 1e-15) | (move[free] > high[free] + 1e-15)]
        if not outside.size:
            break
        move[outside] = np.clip(move[outside], low[outside], high[outside])
        held[outside] = True
    return move


def _medians(log: Floats, n: int) -> dict[str, float]:
    both = {"tpot": np.abs(np.expm1(log[:n])), "ttft": np.abs(np.expm1(log[n:]))}
    return {name: float(np.median(x)) * 100 for name, x in both.items()}
