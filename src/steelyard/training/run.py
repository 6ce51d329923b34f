"""A whole training run: tokens to days, money, energy and carbon, with failures and checkpoints.

``time = steps x step / ETTR``. Its spread is that of the step, of the failures that happen to come, and of a failure
rate that is another cluster's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.failures import DAY_S, NEVER, Failures
from steelyard.deployment.recovery import USUAL, CheckpointRule, Recovery
from steelyard.errors import InputError
from steelyard.interval import Z80
from steelyard.training.failure_runs import Runs, draw_runs
from steelyard.training.reliability import Effective, effective

__all__ = ["Job", "Prices", "Run", "run_of"]

#: Interruptions to draw for a distribution, runs at least and at most, and samples of their product with the step.
DRAWN, FEWEST, MOST = 400_000, 40, 400
SAMPLES: Final = 4000
#: Share of the running power that devices draw while a job stands still (a guess: idle, clocks up).
IDLE_FRAC: Final = 0.35


@dataclass(frozen=True, slots=True)
class Job:
    """What runs: so much that a failure can hit, so much to save."""

    devices: int
    nodes: int
    checkpoint_bytes: float
    """Weights and states of the optimizer, one copy."""
    replicas: int = 1
    """Data-parallel copies of the model, which an elastic job drops one by one."""
    writers: int | None = None
    """Devices that hold different parts of a checkpoint; None: all."""
    slower: float = 1.0
    """A step waits for the slowest of its ranks, :func:`steelyard.training.stragglers.slowest_factor`."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What time and energy cost."""

    device_usd_per_hour: float | None = None
    usd_per_kwh: float = 0.0
    """Beyond the rent; 0: the rent holds it."""
    power_w: float = 0.0
    """Of all devices and hosts while steps run."""
    idle_w: float | None = None
    """The same while the job stands still; None: 0.35 of it."""
    carbon_g_per_kwh: float | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """A run to its last token. ``days`` and what follows from them are samples, sorted by nothing."""

    tokens: float
    steps: float
    ideal_days: float
    """Without failures, checkpoints and spread."""
    samples_days: NDArray[np.float64]
    usd_per_day: float | None
    kwh_per_day: float
    carbon_g_per_kwh: float | None
    shares: Effective
    interruptions: float
    """Expected in the run."""
    checkpoint_bytes: float
    storage_bytes_per_s: float
    """That checkpoints need on average to be safe before the next."""
    stored_bytes: float
    """Of checkpoints that have to be kept."""
    checkpoint_interval_s: float
    checkpoint_stall_s: float = 0.0
    """Training stands still for each."""
    failures: Failures = NEVER
    recovery: Recovery = USUAL

    @property
    def ettr_frac(self) -> float:
        """Time of steps that end up in the model, of all."""
        return float(self.shares.ettr_frac)

    @property
    def days(self) -> Mapping[str, float]:
        """Ten, fifty and ninety percent of runs end by then."""
        low, middle, high = np.quantile(self.samples_days, (0.1, 0.5, 0.9))
        return {"p10": float(low), "p50": float(middle), "p90": float(high)}

    @property
    def usd(self) -> Mapping[str, float] | None:
        """Money by the same shares of runs; None without a price."""
        return None if self.usd_per_day is None else self._times(self.usd_per_day)

    @property
    def kwh(self) -> Mapping[str, float]:
        """Energy of devices and hosts."""
        return self._times(self.kwh_per_day)

    @property
    def kgco2(self) -> Mapping[str, float] | None:
        """Carbon dioxide of that electricity; None without its intensity."""
        if self.carbon_g_per_kwh is None:
            return None
        return self._times(self.kwh_per_day * self.carbon_g_per_kwh / 1e3)

    def _times(self, per_day: float) -> Mapping[str, float]:
        return {name: days * per_day for name, days in self.days.items()}

    def chance_by(self, days: float) -> float:
        """Chance that the run ends within so many days."""
        return float(np.mean(self.samples_days <= days))

    def chance_within(self, usd: float) -> float | None:
        """Chance that the run costs at most so much; None without a price."""
        return None if self.usd_per_day is None else float(np.mean(self.samples_days * self.usd_per_day <= usd))

    def to_dict(self) -> dict[str, Any]:
        """The run by its names in answers."""
        s = self.shares
        return {
            "tokens": self.tokens,
            "steps": self.steps,
            "ideal_days": self.ideal_days,
            "days": dict(self.days),
            "usd": None if self.usd is None else dict(self.usd),
            "kwh": dict(self.kwh),
            "kgco2": None if self.kgco2 is None else dict(self.kgco2),
            "ettr_frac": self.ettr_frac,
            "interruptions": self.interruptions,
            "mtbf_s": _finite(float(s.mtbf_s)),
            "shares": {
                name: float(getattr(s, f"{name}_frac")) for name in ("saving", "lost", "down", "waiting", "silent")
            },
            "checkpoint_interval_s": _finite(self.checkpoint_interval_s),
            "checkpoint_stall_s": self.checkpoint_stall_s,
            "checkpoint_bytes": self.checkpoint_bytes,
            "checkpoints_kept_bytes": self.stored_bytes,
            "storage_bytes_per_s": self.storage_bytes_per_s,
            "failures": self.failures.source,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def run_of(
    step_s: tuple[float, float, float],
    job: Job,
    *,
    tokens: float,
    tokens_per_step: float,
    trainings: int = 1,
    failures: Failures = NEVER,
    recovery: Recovery = USUAL,
    checkpoint: CheckpointRule | None = None,
    prices: Prices | None = None,
    seed: int = 0,
) -> Run:
    """The run of so many tokens.

    Args:
        step_s: time of a step, and the ends of its 80 % interval, s.
        job: what runs.
        tokens: of the whole run, all epochs; or samples where a step is of samples.
        tokens_per_step: of a step.
        trainings: that these are the tokens of, one after the other, each of whole steps.
        failures, recovery, checkpoint: what interrupts the job and what is done about it.
        prices: of time, energy and carbon.
        seed: of the draws.

    Raises:
        InputError: a number is not above 0, or the job hardly gets on for failures.
    """
    rule, paid = checkpoint or CheckpointRule(), prices or Prices()
    size: dict[str, Any] = {"nodes": job.nodes, "devices": job.devices, "replicas": job.replicas}
    for name, value in (("tokens", tokens), ("tokens_per_step", tokens_per_step), ("step_s", step_s[0])):
        if not (0 < value < math.inf):
            raise InputError(f"expected a number above 0, got {value:g}", field=name)
    steps = trainings * math.ceil(tokens / trainings / tokens_per_step * (1.0 - 1e-12))
    work_s = steps * step_s[0] * job.slower
    saved = rule.checkpoint(job.checkpoint_bytes, nodes=job.nodes, writers=job.writers or job.devices)
    shares = effective(failures, saved, recovery, **size)
    if math.isfinite(float(shares.interval_s)):  # a checkpoint comes after a whole step
        each_s = step_s[0] * job.slower
        saved = replace(saved, interval_s=max(round(float(shares.interval_s) / each_s), 1) * each_s)
        shares = effective(failures, saved, recovery, **size)
    ettr = float(shares.ettr_frac)
    wall_s = work_s / max(ettr, 1e-300)
    interruptions = float(shares.interruptions_per_s) * wall_s
    rng = np.random.default_rng(seed)
    stretch = np.full(SAMPLES, 1.0 / max(ettr, 1e-300))
    fails = interruptions > 0 or not ettr > 0  # of so many that none of its time is left, too
    if fails or float(failures.per_s("silent", job.nodes, job.devices)) > 0:
        runs = int(np.clip(DRAWN / max(interruptions, 1.0), FEWEST, MOST))
        drawn: Runs = draw_runs(
            failures,
            saved,
            recovery,
            work_s=work_s,
            runs=runs,
            seed=seed,
            **size,
        )
        stretch = rng.choice(drawn.wall_s, SAMPLES) / work_s
        if failures.spread > 0:
            factor = np.exp(failures.spread * rng.standard_normal(SAMPLES))
            other = effective(
                failures,
                saved,
                recovery,
                nodes=np.maximum(job.nodes * factor, 1.0),
                devices=np.maximum(job.devices * factor, 1.0),
                replicas=job.replicas,
            )
            stretch = stretch * ettr / np.maximum(other.ettr_frac, 1e-300)
    middle, low, high = step_s
    spread = math.log(high / low) / (2.0 * Z80) if 0 < low < high else 0.0
    centre = math.sqrt(low * high) / middle if 0 < low < high else 1.0
    days = work_s / DAY_S * stretch * centre * np.exp(spread * rng.standard_normal(SAMPLES))
    watts = _mean_w(paid, shares, (recovery.spares or 0) / job.nodes)
    rent = None
    if paid.device_usd_per_hour is not None:
        rented = job.devices / job.nodes * (job.nodes + (recovery.spares or 0))
        rent = paid.device_usd_per_hour * rented * 24.0 + watts / 1e3 * 24.0 * paid.usd_per_kwh
    interval = float(shares.interval_s)
    period = interval + saved.stall_s
    return Run(
        tokens=tokens,
        steps=steps,
        ideal_days=steps * step_s[0] / DAY_S,
        samples_days=days,
        usd_per_day=rent,
        kwh_per_day=watts / 1e3 * 24.0,
        carbon_g_per_kwh=paid.carbon_g_per_kwh,
        shares=shares,
        interruptions=interruptions,
        checkpoint_bytes=job.checkpoint_bytes,
        storage_bytes_per_s=job.checkpoint_bytes / period if math.isfinite(period) else 0.0,
        stored_bytes=job.checkpoint_bytes * float(shares.kept) if math.isfinite(period) else 0.0,
        checkpoint_interval_s=interval,
        checkpoint_stall_s=saved.stall_s,
        failures=failures,
        recovery=recovery,
    )


def _mean_w(prices: Prices, shares: Effective, spares: float) -> float:
    """Mean power of a run: steps, kept or lost, draw the running power; standing still, and nodes that stand by
    (``spares``, over those of the job), the idle one."""
    still = float(shares.saving_frac + shares.down_frac + shares.waiting_frac)
    idle = prices.power_w * IDLE_FRAC if prices.idle_w is None else prices.idle_w
    return prices.power_w * (1.0 - still) + idle * (still + spares)
