"""What failures cost a training run, in closed form: the share of time that ends up in the model (ETTR), and why.

A run works for ``tau`` and then stands still for ``c`` to save a checkpoint, which is safe ``late_s`` after that. An
interruption loses what came after the last safe checkpoint, is noticed after ``detect_s`` and over when the job has
started again. :mod:`steelyard.training.failure_runs` draws the same run by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.deployment.failures import Failures
from steelyard.deployment.recovery import USUAL, Checkpoint, Recovery
from steelyard.errors import InputError, Problem

__all__ = ["Effective", "best_interval_s", "daly_interval_s", "effective", "young_interval_s"]

Floats = NDArray[np.float64]
#: Least work between checkpoints, s.
MOMENT_S: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Effective:
    """Shares of a run's time, arrays over sizes: ``ettr_frac`` is what is left."""

    ettr_frac: Floats
    """Time of steps that end up in the model, of all."""
    interval_s: Floats
    """Work between checkpoints; inf: none is saved."""
    mtbf_s: Floats
    """Mean running time between interruptions."""
    saving_frac: Floats
    """Standing still for checkpoints."""
    lost_frac: Floats
    """Steps done again after interruptions."""
    down_frac: Floats
    """Noticing failures and starting again."""
    waiting_frac: Floats
    """No node to go on with; with an elastic job what its missing replicas would have done."""
    silent_frac: Floats
    """Steps done again after wrong numbers."""
    interruptions_per_s: Floats
    """Of all time."""
    kept: Floats
    """Checkpoints to keep so that one is older than an error that is found."""


def young_interval_s(stall_s: ArrayLike, mtbf_s: ArrayLike) -> Floats:
    """Work between checkpoints, first order: ``sqrt(2 c M)``. Source: J. W. Young, CACM 17(9), 1974."""
    return np.sqrt(2.0 * np.asarray(stall_s, np.float64) * np.asarray(mtbf_s, np.float64))


def daly_interval_s(stall_s: ArrayLike, mtbf_s: ArrayLike) -> Floats:
    """Work between checkpoints, second order, s.

    ``sqrt(2 c M) (1 + sqrt(c / 2 M) / 3 + c / 18 M) - c`` where ``c < 2 M``, else ``M``.

    Args:
        stall_s: time to save a checkpoint c, s.
        mtbf_s: mean time between failures M, s.

    Source: J. T. Daly, Future Generation Computer Systems 22(3), 2006, equation 37.
    """
    c, m = np.broadcast_arrays(np.asarray(stall_s, np.float64), np.asarray(mtbf_s, np.float64))
    share = c / (2.0 * m)
    second = np.sqrt(2.0 * c * m) * (1.0 + np.sqrt(share) / 3.0 + share / 9.0) - c
    return np.where(share < 1.0, second, m)


def best_interval_s(stall_s: ArrayLike, mtbf_s: ArrayLike) -> Floats:
    """Work between checkpoints that loses least, exactly, s; inf where nothing fails.

    The time for ``tau`` of work is proportional to ``exp((tau + c) / M) - 1``, whatever a restart takes; the least of
    it per work is where ``(1 - tau / M) exp((tau + c) / M) = 1``. Young's and Daly's are its expansions.

    Args:
        stall_s: time to save a checkpoint c, s.
        mtbf_s: mean time between failures M, s.
    """
    c, m = np.broadcast_arrays(np.asarray(stall_s, np.float64), np.asarray(mtbf_s, np.float64))
    with np.errstate(invalid="ignore"):
        share = np.minimum(np.where(np.isinf(m), 0.0, c / m), 500.0)
    y = np.minimum(np.sqrt(2.0 * share), 1.0)
    for _ in range(60):  # Newton's method from above on a concave function
        lift = np.exp(y + share)
        y = np.where(share > 0, y + ((1.0 - y) * lift - 1.0) / np.maximum(y * lift, 1e-300), 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isinf(m), np.inf, y * m), np.float64)


@dataclass(frozen=True, slots=True)
class Source:
    """Interruptions of one kind, of the whole job."""

    per_s: Any
    detect_s: float
    restart_s: float
    rolls_back: bool
    out_s: float
    """A node is out for so long on average; 0: none is."""


def sources(failures: Failures, recovery: Recovery, checkpoint: Checkpoint, nodes: Any, devices: Any) -> list[Source]:
    """Every kind of interruption with what it takes."""
    noticed = recovery.notice_s > 0 and recovery.notice_s >= checkpoint.stall_s + checkpoint.late_s
    restart, detect = recovery.restart_s, recovery.detect_s
    counted = recovery.spares is not None
    return [
        Source(failures.per_s("hardware", nodes, devices), detect, restart, True, recovery.repair_s * counted),
        Source(failures.per_s("software", nodes, devices), detect, restart, True, 0.0),
        Source(
            failures.per_s("reclaim", nodes, devices),
            checkpoint.stall_s + checkpoint.late_s if noticed else detect,
            restart,
            not noticed,
            recovery.reclaim_s * counted,
        ),
    ]


def effective(
    failures: Failures,
    checkpoint: Checkpoint,
    recovery: Recovery = USUAL,
    *,
    nodes: ArrayLike,
    devices: ArrayLike,
    replicas: int = 1,
) -> Effective:
    """The share of time that ends up in the model.

    A failure comes every M on average. For ``x = tau + c`` of running to be safe it takes
    ``X = M exp(late / M) (exp(x / M) - 1)`` of running, and each failure ``u`` of standing: what it takes to notice it
    and to start again, over and over where that is interrupted. So ``ETTR = tau / (X (1 + u / M))``, times the share of
    time with enough nodes, times that without silent errors:

    - nodes out are an Erlang loss system: a job that waits has none fail, ``P(waits) = B(spares + 1, rate x repair)``;
    - an elastic job has ``P(j out) ~ (rate x repair)^j / j!`` and goes on with the replicas that are whole;
    - a silent error every ``1 / s`` of running that no failure wipes out costs the time to find it and to go back to a
      checkpoint before it: ``(x / (exp(x s) - 1)) / (1 / s + silent_s + restart_s)``.

    Args:
        failures: rates, :func:`steelyard.deployment.failures.parse_failures`.
        checkpoint: what one takes, and how often.
        recovery: what happens after a failure.
        nodes, devices: of the job; arrays over sizes.
        replicas: copies of the model that an elastic job can drop one by one.

    Raises:
        InputError: sizes below 1.

    Validity: failures come independently at constant rates (exponential times between them); nodes out are few of all.
    Source: J. T. Daly, 2006, for the running time; A. K. Erlang, 1917, for the spares.
    """
    nodes, devices = (np.asarray(x, np.float64) for x in np.broadcast_arrays(nodes, devices))
    _check(nodes, devices, replicas)
    kinds = sources(failures, recovery, checkpoint, nodes, devices)
    rate = np.asarray(sum(k.per_s for k in kinds), np.float64)
    back = np.asarray(sum(k.per_s for k in kinds if k.rolls_back) + np.zeros_like(rate), np.float64)
    with np.errstate(divide="ignore"):
        mtbf = np.asarray(1.0 / rate)
    stall, late = checkpoint.stall_s, checkpoint.late_s
    errors = failures.per_s("silent", nodes, devices)
    with np.errstate(divide="ignore"):
        tau = _interval(checkpoint, 1.0 / (back + errors))
    span = tau + stall
    # running for one safe checkpoint, relative to its span; 1 where nothing rolls back
    again = np.ones_like(rate)
    some = (back > 0) & np.isfinite(span)
    with np.errstate(over="ignore"):
        again[some] = np.exp(late * back[some]) * np.expm1(span[some] * back[some]) / (span[some] * back[some])
    each, chain = _standing(kinds, rate)
    standing = rate * each
    useful = np.where(np.isfinite(span), tau / np.where(np.isfinite(span), span, 1.0), 1.0)
    per_time = 1.0 / (again * (1.0 + standing))
    have, waiting = _with_nodes(kinds, rate, standing, recovery, nodes, replicas, stall)
    whole = _without_errors(errors, back, span, late, again, standing, recovery)
    ettr = useful * per_time * have * whole
    down = (1.0 - 1.0 / (1.0 + standing)) * have * whole
    running = have * whole - down
    silent = np.asarray(1.0 - whole)
    some = (errors > 0) & np.isfinite(span)
    kept = np.where(some, np.ceil(recovery.silent_s / np.where(some, np.maximum(span, 1e-9), 1.0)) + 1.0, 1.0)
    return Effective(
        ettr_frac=ettr,
        interval_s=tau,
        mtbf_s=mtbf,
        saving_frac=running * (1.0 - useful) / again,
        lost_frac=running * (1.0 - 1.0 / again),
        down_frac=down,
        waiting_frac=waiting,
        silent_frac=silent * (1.0 - waiting),
        interruptions_per_s=running * rate * np.minimum(chain, 1e9),
        kept=kept,
    )


def _check(nodes: Floats, devices: Floats, replicas: int) -> None:
    found = [
        Problem(name, f"expected at least 1, got {float(np.min(value)):g}")
        for name, value in (("nodes", nodes), ("devices", devices), ("replicas", replicas))
        if not np.all(np.asarray(value) >= 1)
    ]
    if found:
        raise InputError(found[0].message, field=found[0].field, problems=found)


def _interval(checkpoint: Checkpoint, safe_for: Floats) -> Floats:
    """Work between checkpoints: as given, or the best that storage can follow; where one is free, a moment."""
    if checkpoint.interval_s is not None:
        return np.full_like(safe_for, max(checkpoint.interval_s, checkpoint.least_s))
    return np.maximum(best_interval_s(checkpoint.stall_s, safe_for), max(checkpoint.least_s, MOMENT_S))


def _standing(kinds: list[Source], rate: Floats) -> tuple[Floats, Floats]:
    """Mean time a failure while running takes, s, and how many interruptions it is: restarts are interrupted too.

    ``u = sum w_i (D_i + g_i / rate) / (1 - sum w_i g_i)`` and ``1 / (1 - sum w_i g_i)``, g: a restart is interrupted.
    """
    safe = np.where(rate > 0, rate, 1.0)
    above, fails = np.zeros_like(rate), np.zeros_like(rate)
    for kind in kinds:
        share = kind.per_s / safe
        broken = -np.expm1(-kind.restart_s * rate)
        long = np.where(rate > 0, broken / safe, kind.restart_s)
        above = above + share * (kind.detect_s + long)
        fails = fails + share * broken
    with np.errstate(divide="ignore"):
        chain = np.asarray(1.0 / (1.0 - fails))
    return np.asarray(above * chain), chain


def _with_nodes(
    kinds: list[Source],
    rate: Floats,
    standing: Floats,
    recovery: Recovery,
    nodes: Floats,
    replicas: int,
    stall_s: float,
) -> tuple[Floats, Floats]:
    """Work per time with the nodes that are there, and the share that is missing."""
    if recovery.spares is None:
        return np.ones_like(rate), np.zeros_like(rate)
    noticing = sum(k.per_s * k.detect_s for k in kinds)
    load = np.asarray(sum(k.per_s * k.out_s for k in kinds) / (1.0 + noticing), np.float64)
    if not recovery.elastic:
        blocked = np.ones_like(load)
        whole = load * (1.0 + noticing)
        for k in range(1, recovery.spares + 2):  # a failure that finds k - 1 nodes out; noticed before by as many
            here = whole / (1.0 + noticing * (k - 1) / np.maximum(k - 1 + whole, 1e-300))
            blocked = here * blocked / (k + here * blocked)
        away = np.asarray(sum(k.per_s * k.out_s for k in kinds))
        notice = np.asarray(sum(k.per_s * k.detect_s for k in kinds if k.out_s))
        sooner = np.divide(notice, away, out=np.zeros_like(load), where=load > 0)
        blocked = blocked * np.exp(-(recovery.spares + 1) * sooner)  # a node is back before the failure is noticed
        return 1.0 - blocked, blocked
    most = float(np.max(load, initial=0.0))
    out = np.arange(recovery.spares + int(most + 12 * most**0.5) + 2 + replicas * (most > 0))
    speed = elastic_speed(out, nodes[..., None], recovery.spares, replicas)
    terms = np.concatenate(
        [np.zeros((*load.shape, 1)), np.log(np.maximum(load, 1e-300))[..., None] - np.log(out[1:])], -1
    )
    reached = np.concatenate([np.ones((*load.shape, 1), bool), speed[..., :-1] > 0], -1)
    logs = np.where(reached, np.cumsum(terms, -1), -np.inf)
    chance = np.exp(logs - np.max(logs, -1, keepdims=True))
    chance = chance / chance.sum(-1, keepdims=True)
    turnover = np.asarray(sum(k.per_s for k in kinds if k.out_s) / (1.0 + noticing), np.float64)
    faster = np.concatenate(
        [np.zeros((*load.shape, 1)), (speed[..., :-1] > speed[..., 1:]) * (out[1:] > recovery.spares)], -1
    )
    back = np.divide(out * turnover[..., None], load[..., None], out=np.zeros_like(chance), where=load[..., None] > 0)
    growing = (chance * faster * back).sum(-1) * (stall_s + recovery.restart_s)
    have = (chance * speed).sum(-1) * np.maximum(1.0 - growing, 0.0)
    return np.asarray(have), np.asarray(1.0 - have)


def elastic_speed(out: Any, nodes: Any, spares: int, replicas: int) -> Any:
    """Work per time of a job with ``out`` nodes gone: whole replicas of the nodes that are left, of all."""
    each = np.asarray(nodes, np.float64) / replicas
    whole = np.floor((nodes + spares - np.asarray(out)) / each + 1e-9)
    return np.clip(whole / replicas, 0.0, 1.0)


def _without_errors(
    per_s: Floats, back: Floats, span: Floats, late: float, again: Floats, standing: Floats, recovery: Recovery
) -> Floats:
    """Share of time that is left after going back behind silent errors.

    An error stays where no failure comes before the next checkpoint is safe. No failure comes from the checkpoint
    before it to the one after it, so that more is lost than of other running: ``again`` times.
    """
    some = (per_s > 0) & np.isfinite(span)
    step = np.where(some, span, 1.0)
    rate = np.where(some, per_s * np.exp(-late * back) * _before_next(step * back), 1.0)
    good = _before_next((step * (2.0 * again - 1.0) + 2.0 * late * (again - 1.0)) * rate) / rate
    found = good / (1.0 / rate + recovery.silent_s + recovery.restart_s / (1.0 + standing))
    return np.where(some, found, np.where(per_s > 0, 0.0, 1.0))


def _before_next(x: Floats) -> Floats:
    """``x / (exp(x) - 1)``; 1 at 0."""
    safe = np.clip(x, 1e-12, 700.0)
    return np.asarray(np.where(x > 1e-12, safe / np.expm1(safe), 1.0))
