"""A training estimate as one row of figures, by the names of :mod:`steelyard.scenario.answers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.deployment.failures import DAY_S
from steelyard.scenario.run_limits import limits_of

if TYPE_CHECKING:
    from steelyard.deployment.train_plan import TrainPlan
    from steelyard.training.estimate import TrainEstimate

__all__ = ["chances", "columns_of", "layout_of"]

#: Sums of a run that are told by shares of runs.
_SUMS = ("days", "usd", "kwh", "kgco2")


def columns_of(found: TrainEstimate) -> dict[str, Any]:
    """The figures of an answer, those of a run and of rollouts only where there are any."""
    step = found.interval["step_s"]
    row: dict[str, Any] = {
        "layout": layout_of(found),
        "fits": found.fits,
        "step_s": found.step_s,
        "step_low_s": step[0],
        "step_high_s": step[1],
        "tokens_per_step": found.tokens_per_step,
        "tokens_per_s": found.tokens_per_s,
        "tokens_per_s_per_device": found.tokens_per_s_per_device,
        "model_tflops_per_device": found.model_tflops_per_device,
        "mfu_frac": found.mfu_frac,
        "hfu_frac": found.hfu_frac,
        "peak_memory_bytes": found.stages[found.peak_stage].reserved_bytes,
        "energy_j_per_token": found.energy_j_per_token,
        "usd_per_device_hour": found.usd_per_device_hour,
        "usd_per_trillion_tokens": found.usd_per_trillion_tokens,
    }
    if (run := found.run) is not None:
        for name in _SUMS:
            ends = getattr(run, name)
            if ends is not None:
                row |= {f"{name}_p10": ends["p10"], name: ends["p50"], f"{name}_p90": ends["p90"]}
        row |= {"steps": run.steps, "ettr_frac": run.ettr_frac, "interruptions": run.interruptions}
        row |= chances(found)
    if (scored := found.rewarded) is not None:
        row |= {"rl_step_s": scored.step_s, "rl_tokens_per_s": scored.tokens_per_s, "rl_usd": scored.usd}
    return row


def layout_of(found: TrainEstimate) -> str:
    """The layout in words: degrees above 1, micro-batch, ZeRO, what is computed again."""
    if found.kinds:
        return "; ".join(f"{k.cluster}: {_layout_of(k.plan)}, gbs {k.plan.gbs}" for k in found.kinds)
    return _layout_of(found.scenario.plan)


def _layout_of(plan: TrainPlan) -> str:
    away = f", offload {' '.join(plan.offload)}" if plan.offload else ""
    return f"{plan.shape}, mbs {plan.mbs}, zero {plan.zero}, recompute {plan.again}{away}"


def chances(found: TrainEstimate) -> dict[str, float | None]:
    """Chance to keep the deadline and the budget, where they were given."""
    run, limits = found.run, limits_of(found.scenario.words)
    if run is None:
        return {}
    kept: dict[str, float | None] = {}
    if limits.by_s is not None:
        kept["chance_by"] = run.chance_by(limits.by_s / DAY_S)
    if limits.budget_usd is not None:
        kept["chance_within_budget"] = run.chance_within(limits.budget_usd)
    return kept
