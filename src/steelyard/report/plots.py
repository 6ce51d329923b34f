"""Results as pictures of matplotlib, one function per kind of result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from steelyard.errors import InputError, show

__all__ = ["plot"]


def plot(result: Any, axes: Any = None) -> Any:
    """Draw a result.

    Args:
        result: an estimate, a simulation, an answer of the planner, the findings of a study, an explanation or a
            comparison.
        axes: where; None = in a new figure.

    Returns:
        the axes.

    Raises:
        InputError: matplotlib is not installed, or there is nothing to draw.
    """
    draw = next((_PLOTS[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in _PLOTS), None)
    if draw is None:
        raise TypeError(f"no picture of {type(result).__name__}")
    if axes is not None and not hasattr(axes, "errorbar"):
        raise InputError(f"expected axes of matplotlib, got {show(axes)}", field="axes")
    if axes is None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise InputError("plot needs matplotlib: pip install 'steelyard[plot]'", field="plot") from None
        axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    draw(result, axes)
    return axes


def _estimate(estimate: Any, axes: Any) -> None:
    """Times with their 80 % intervals and physical limits."""
    names = [("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "end to end")]
    values = np.array([getattr(estimate, name) for name, _ in names])
    ends = np.array([estimate.interval[name] for name, _ in names])
    places = np.arange(len(names))
    errors = np.maximum(np.abs(ends.T - values), 0.0)
    axes.errorbar(values, places, xerr=errors, fmt="o", capsize=4, label="predicted, 80 % interval")
    limits = [(estimate.limit[name], i) for i, (name, _) in enumerate(names) if name in estimate.limit]
    axes.plot(*zip(*limits, strict=True), "|", markersize=16, color="tab:red", label="physical limit")
    axes.set(xscale="log", xlabel="s", yticks=places, yticklabels=[label for _, label in names])
    axes.set_title(f"{estimate.scenario.transformer.name} on {estimate.scenario.cluster}")
    axes.invert_yaxis()
    axes.legend()


def _simulation(simulation: Any, axes: Any) -> None:
    """Requests that run and wait over time."""
    series = simulation.series()
    for name in ("running", "waiting"):
        axes.plot(series["at_s"], series[name], label=name)
    axes.set(
        xlabel="time, s", ylabel="requests", title=f"{simulation.scenario.transformer.name}: requests in the engine"
    )
    axes.legend()


def _answer(answer: Any, axes: Any) -> None:
    """The front of speed for a user against yield of a device, and the winner."""
    front = sorted(answer.front, key=lambda c: c.tokens_per_s_per_user)
    if not front:
        raise InputError("nothing fits: there is no front to draw", field="plot")
    place = np.array([(c.tokens_per_s_per_user, c.tokens_per_s_per_device) for c in front])
    axes.plot(*place.T, color="tab:gray", linewidth=1)
    for machine in dict.fromkeys(c.machine for c in front):
        axes.plot(*place[[c.machine == machine for c in front]].T, "o", label=machine)
    w = answer.winner
    if w is not None:
        axes.plot(w.tokens_per_s_per_user, w.tokens_per_s_per_device, "k*", markersize=14, label="winner")
    axes.set(xlabel="tokens/s for one user", ylabel="tokens/s per device", title=answer.question.model)
    axes.legend()


def _findings(found: Any, axes: Any) -> None:
    """All points between the first two objectives, and their front; one objective: its values, best first."""
    metrics = [o.metric for o in found.objectives][:2]
    rows = [r for r in found.answered if all(r.values.get(m) is not None for m in metrics)]
    if not rows:
        raise InputError("no point has an answer", field="plot")
    if len(metrics) == 1:
        axes.plot(sorted((r.values[metrics[0]] for r in rows), reverse=found.objectives[0].maximise))
        axes.set(xlabel="points, best first", ylabel=metrics[0], title=found.study.name)
        return
    axes.scatter(*([r.values[m] for r in rows] for m in metrics), s=8, alpha=0.5, label="points")
    front = sorted([r.values[m] for m in metrics] for r in found.front)
    if front:
        axes.plot(*zip(*front, strict=True), "o-", color="tab:red", label="Pareto front")
    axes.set(xlabel=metrics[0], ylabel=metrics[1], title=found.study.name)
    axes.legend()


def _explanation(explanation: Any, axes: Any) -> None:
    """Where the time of a prefill step and of a decode step goes, kernel by kernel."""
    for name in ("prefill", "decode"):
        left = 0.0
        for i, kernel in enumerate(explanation.kernels[name]):
            axes.barh(name, kernel["share"], left=left, color=f"C{i % 10}")
            if kernel["share"] > 0.06:
                axes.text(left + kernel["share"] / 2, name, kernel["kernel"], ha="center", va="center", rotation=90)
            left += kernel["share"]
    axes.set(xlabel="share of the step", title=explanation.estimate.scenario.transformer.name)


def _comparison(comparison: Any, axes: Any) -> None:
    """The ratio of every figure both have."""
    rows = [r for r in comparison.rows() if isinstance(r["ratio"], float) and r["ratio"] > 0]
    if not rows:
        raise InputError("no figure is a number in both", field="plot")
    axes.barh([r["field"] for r in rows], np.log2([r["ratio"] for r in rows]))
    axes.axvline(0.0, color="black", linewidth=0.8)
    first, second = comparison.names
    axes.set(xlabel=f"log2({second} / {first})")
    axes.invert_yaxis()


def _places(places: Any, axes: Any) -> None:
    """The speed of every place against its price, or of every model against its memory."""
    rows = [place.row() for place in places]
    across = ("memory_bytes", "memory, GiB", 2.0**30) if places.models else ("price_usd_per_hour", "USD/h", 1.0)
    known = [row for row in rows if row[across[0]] is not None]
    if not known:
        raise InputError("no place has a price" if rows else "nothing was found", field="plot")
    for row in known:
        name = row["model"] if places.models else f"{row['count']} x {row['machine']}"
        axes.plot(row[across[0]] / across[2], row["tokens_per_s"], "o")
        axes.annotate(name, (row[across[0]] / across[2], row["tokens_per_s"]), fontsize="x-small")
    axes.set(xlabel=across[1], ylabel="tokens/s for one user", title=places.about, xscale="log", yscale="log")


def _llama_bench(found: Any, axes: Any) -> None:
    """Measured and predicted speed of every test, with the 80 % interval."""
    places = np.arange(len(found.rows))
    values = np.array([t.predicted for t in found.rows])
    ends = np.array([(t.low, t.high) for t in found.rows])
    axes.errorbar(values, places, xerr=np.abs(ends.T - values), fmt="o", capsize=4, label="predicted, 80 % interval")
    axes.plot([t.test.tokens_per_s for t in found.rows], places, "x", color="tab:red", label="measured")
    axes.set(xscale="log", xlabel="tokens/s", yticks=places, yticklabels=[t.test.name for t in found.rows])
    axes.set_title(found.name)
    axes.invert_yaxis()
    axes.legend()


_PLOTS: dict[str, Callable[[Any, Any], None]] = {
    "Estimate": _estimate,
    "Simulation": _simulation,
    "Answer": _answer,
    "Findings": _findings,
    "Explanation": _explanation,
    "Comparison": _comparison,
    "Places": _places,
    "LlamaBench": _llama_bench,
}
