"""A step that learns from scored answers, as JSON and as text: its parts, who waits for whom, money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.report.paper import Line, figure, grid, lines_table, shares_table, span, styled
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate
    from steelyard.training.rollouts import RewardedCost, Rollouts

__all__ = ["flat", "parts", "to_dict"]


def to_dict(found: TrainEstimate) -> dict[str, Any] | None:
    """The part ``rl`` of ``steelyard.train/1``; None where no answers are scored."""
    done, step = found.rewarded, found.scenario.rewarded
    if done is None or step is None:
        return None
    low, high = done.ends_s
    return {
        "task": step.task,
        "step_s": {"value": done.step_s, "low": low, "high": high},
        "parts_s": dict(done.parts_s),
        "updates": done.updates,
        "answers": done.answers,
        "tokens": done.tokens,
        "output_tokens": done.output_tokens,
        "tokens_per_s": done.tokens_per_s,
        "tokens_per_s_per_device": done.tokens_per_s / done.devices,
        "devices": done.devices,
        "stale": step.stale,
        "idle_frac": dict(done.idle_frac),
        "energy_j": done.energy_j,
        "usd": done.usd,
        "rollouts": None if done.rollouts is None else _rollouts(done.rollouts),
    }


def _rollouts(made: Rollouts) -> dict[str, Any]:
    return {
        "machine": made.cluster.machine.name,
        "devices": made.cluster.count,
        "engine": made.engine,
        **made.degrees,
        "replicas": made.replicas,
        "time_s": {"value": made.time_s, "low": made.ends_s[0], "high": made.ends_s[1]},
        "half_done_s": made.half_s,
        "input_tokens": made.input_tokens,
        "output_tokens": made.output_tokens,
        "output_tokens_per_s": made.output_tokens / made.time_s,
        "idle_frac": made.idle_frac,
        "batch_mean": made.batch_mean,
        "kv_max_frac": made.kv_max_frac,
        "preemptions": made.preemptions,
        "memory_frac": made.memory_frac,
        "away_bytes": made.away_bytes,
    }


def flat(found: TrainEstimate) -> dict[str, Any]:
    """Columns of a row."""
    done = found.rewarded
    if done is None:
        return {}
    return {f"rl_{name}_s": time for name, time in done.parts_s.items()}


def parts(found: TrainEstimate) -> list[Any]:
    """The step as renderables; none where no answers are scored."""
    from steelyard.training.rollouts import PARTS

    done, step = found.rewarded, found.scenario.rewarded
    if done is None or step is None:
        return []
    table = grid("left", "right", "right")
    table.add_row(*(styled((x, "bold")) for x in ("", "predicted", "80% interval")))
    table.add_row(f"step of {step.task}", styled((q(done.step_s, "s"), "bold")), span(*done.ends_s))
    return [
        "",
        table,
        "",
        lines_table(list(_lines(done, step.stale, found.fits))),
        "",
        styled((f"where the time of a step of {step.task} goes", "bold")),
        shares_table(done.parts_s, PARTS, done.step_s, "of the step"),
    ]


def _lines(done: RewardedCost, stale: int, fits: bool) -> Any:
    many = "update" if done.updates == 1 else "updates"
    yield Line(
        "answers",
        f"{done.answers:,} of {done.output_tokens / done.answers:,.0f} tokens on average, {done.updates} {many}",
    )
    yield Line("tokens", f"{figure(done.tokens_per_s)} per s, {figure(done.tokens_per_s / done.devices)} per device")
    if (made := done.rollouts) is not None:
        rate = figure(made.output_tokens / made.time_s)
        where = f"{made.replicas} x {made.engine} of {made.cluster.count // made.replicas} on {made.cluster}"
        yield Line("rollouts", f"{where}: {rate} tokens/s, half done after {q(made.half_s, 's')}")
        beside = "beside training, weights a step old" if stale else "before training"
        idle = done.idle_frac
        yield Line(
            "idle", f"{idle['train']:.1%} of those that train, {idle['rollout']:.1%} of those that answer ({beside})"
        )
    money = "no price known, " if done.usd is None else f"{done.usd:,.2f} USD, "
    yield Line("a step", f"{money if fits else ''}{q(done.energy_j, 'J')} on {done.devices:,} devices")
