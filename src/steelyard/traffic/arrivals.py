"""When requests arrive: point processes with a mean rate, vectorised and reproducible.

    poisson                     independent arrivals
    constant                    one every 1 / rate
    gamma:cv=3                  independent gaps with this coefficient of variation (1 = poisson, above = bursts)
    onoff:on=10s,off=50s        Poisson while on, nothing while off; both phases last exponentially long
    diurnal:peak=2,period=24h   Poisson with the rate mean x (1 + (peak - 1) sin(2 pi t / period))

Every process has the mean rate asked for; bursts and phases only move arrivals about. At the rate ``inf`` all requests
arrive at once, as benchmark clients send them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from steelyard.errors import InputError, normalise, show, suggest
from steelyard.traffic.trace import Floats
from steelyard.units import parse_quantity

__all__ = [
    "MAX_REQUESTS",
    "Arrivals",
    "check_blocks",
    "constant",
    "diurnal",
    "gamma",
    "onoff",
    "parse_arrivals",
    "parse_rate",
    "poisson",
]

#: Most requests of one generated trace: about 1 GB of arrays.
MAX_REQUESTS = 2_000_000
#: Most hashed blocks of the prompts of one generated trace.
MAX_BLOCKS = 10_000_000


def check_blocks(blocks: float, field: str) -> None:
    """Refuse prompts that have too many hashed blocks together. Raises :class:`InputError`."""
    if blocks > MAX_BLOCKS:
        words = f"the prompts have {blocks:,.0f} hashed blocks; at most {MAX_BLOCKS:,}"
        raise InputError(f"{words}: fewer requests, or shorter prompts", field=field)


_KINDS: dict[str, tuple[str, ...]] = {
    "poisson": (),
    "constant": (),
    "gamma": ("cv",),
    "onoff": ("on", "off"),
    "diurnal": ("peak", "period"),
}
#: Defaults where there is a natural one; ``onoff`` has none.
_DEFAULTS = {"peak": 2.0, "period": 86400.0}


def constant(rate_per_s: float, n: int) -> Floats:
    """``t_i = i / rate``, s."""
    return np.arange(n) / rate_per_s


def poisson(rate_per_s: float, n: int, rng: np.random.Generator) -> Floats:
    """Exponential gaps of mean ``1 / rate``; the first request waits one gap too. ``[n]`` s."""
    return np.cumsum(rng.exponential(1 / rate_per_s, n))


def gamma(rate_per_s: float, cv: float, n: int, rng: np.random.Generator) -> Floats:
    """Gamma gaps of mean ``1 / rate`` and standard deviation ``cv / rate``: shape ``1 / cv^2`` (vLLM's burstiness)."""
    if cv == 0:
        return (np.arange(n) + 1) / rate_per_s
    return np.cumsum(rng.gamma(1 / cv**2, cv**2 / rate_per_s, n))


def onoff(rate_per_s: float, on_s: float, off_s: float, n: int, rng: np.random.Generator) -> Floats:
    """An interrupted Poisson process: rate ``rate (on + off) / on`` while on, phases exponential. ``[n]`` s.

    Arrivals are a Poisson process in "on time"; each on-phase boundary passed adds the off-phase behind it.
    """
    expected = n / ((on_s + off_s) * rate_per_s)
    if expected > MAX_BLOCKS:
        words = f"{n:,} requests take {expected:,.0f} phases of on and off; at most {MAX_BLOCKS:,}: longer ones"
        raise InputError(words, field="arrivals")
    busy = np.cumsum(rng.exponential(on_s / ((on_s + off_s) * rate_per_s), n))
    phases = int(busy[-1] / on_s * 1.2) + 50
    ends = np.cumsum(rng.exponential(on_s, phases))
    while ends[-1] < busy[-1]:
        ends = np.concatenate([ends, ends[-1] + np.cumsum(rng.exponential(on_s, phases))])
    pauses = np.concatenate([[0.0], np.cumsum(rng.exponential(off_s, len(ends)))])
    return np.asarray(busy + pauses[np.searchsorted(ends, busy, side="left")], dtype=np.float64)


def diurnal(rate_per_s: float, peak: float, period_s: float, n: int, rng: np.random.Generator) -> Floats:
    """A Poisson process of rate ``rate (1 + a sin(2 pi t / period))``, ``a = peak - 1``, by thinning. ``[n]`` s.

    Thinning (Lewis and Shedler 1979): draw at the peak rate, keep a point at ``t`` with probability rate(t) / peak.
    """
    kept: list[Floats] = []
    have, start, top = 0, 0.0, rate_per_s * peak
    while have < n:
        draw = int((n - have) * peak * 1.1) + 100
        points = start + np.cumsum(rng.exponential(1 / top, draw))
        share = (1 + (peak - 1) * np.sin(2 * np.pi * points / period_s)) / peak
        kept.append(points[rng.random(draw) < share])
        have, start = have + len(kept[-1]), float(points[-1])
    return np.concatenate(kept)[:n]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A process with its mean rate.

    Args:
        kind: ``poisson``, ``constant``, ``gamma``, ``onoff`` or ``diurnal``.
        rate_per_s: mean rate.
        cv: coefficient of variation of gamma gaps.
        on_s, off_s: mean phases of ``onoff``.
        peak: highest rate over the mean of ``diurnal``, from 1 to 2.
        period_s: its period.
    """

    kind: str
    rate_per_s: float
    cv: float = 1.0
    on_s: float = 0.0
    off_s: float = 0.0
    peak: float = _DEFAULTS["peak"]
    period_s: float = _DEFAULTS["period"]

    def __str__(self) -> str:
        if math.isinf(self.rate_per_s):
            return "all at once"
        extra = {
            "gamma": f" (cv {self.cv:g})",
            "onoff": f" ({self.on_s:g} s on, {self.off_s:g} s off)",
            "diurnal": f" (peak {self.peak:g} x, period {self.period_s:g} s)",
        }
        return f"{self.kind} at {self.rate_per_s:g}/s{extra.get(self.kind, '')}"

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """``n`` arrival times, ``[n]`` s, ascending."""
        if math.isinf(self.rate_per_s):
            return np.zeros(n)
        if self.kind == "constant":
            return constant(self.rate_per_s, n)
        if self.kind == "poisson":
            return poisson(self.rate_per_s, n, rng)
        if self.kind == "gamma":
            return gamma(self.rate_per_s, self.cv, n, rng)
        if self.kind == "onoff":
            return onoff(self.rate_per_s, self.on_s, self.off_s, n, rng)
        return diurnal(self.rate_per_s, self.peak, self.period_s, n, rng)

    def draw_until(self, duration_s: float, rng: np.random.Generator) -> Floats:
        """Arrival times in ``[0, duration)``, s.

        Raises:
            InputError: none falls into it, or more than :data:`MAX_REQUESTS` would.
        """
        if math.isinf(self.rate_per_s):
            raise InputError("at the rate inf all arrive at once: say how many with requests", field="duration")
        expected = self.rate_per_s * duration_s
        if expected > MAX_REQUESTS:
            raise InputError(f"{expected:,.0f} requests; at most {MAX_REQUESTS:,}", field="duration")
        seed, n = rng.integers(0, 2**63), int(expected + 8 * math.sqrt(expected) * max(1.0, self.cv)) + 16
        n = min(n, MAX_REQUESTS)
        while True:  # the same seed again: the points already drawn stay where they were
            times = self.draw(n, np.random.default_rng(seed))
            if times[-1] >= duration_s or n >= MAX_REQUESTS:
                break
            n = min(2 * n, MAX_REQUESTS)
        inside = times[times < duration_s]
        if not inside.size:
            raise InputError(
                f"no request arrives in {duration_s:g} s at {self.rate_per_s:g} per second", field="duration"
            )
        return inside


def parse_rate(text: str | float, field: str = "rate") -> float:
    """Requests per second from ``4/s``, ``4``, ``240/min`` or ``1000/h``; infinite from ``inf``: all at once.

    Raises:
        InputError: not a rate, or not above 0.
    """
    words = str(text).strip()
    if words.lower().removesuffix("/s") in ("inf", "infinity"):
        return math.inf
    per = 1.0
    for suffix, seconds in (("/min", 60.0), ("/h", 3600.0), ("req/s", 1.0), ("rps", 1.0)):
        if words.endswith(suffix):
            words, per = words.removesuffix(suffix), seconds
            break
    try:
        rate = parse_quantity(words, "1/s", field) / per
    except InputError:
        raise InputError(f"expected a rate such as 4/s, 240/min or inf, got {text!r}", field=field) from None
    if not 1e-9 <= rate <= 1e9:
        raise InputError(f"expected a rate from 1e-9 to 1e9 per second, got {show(text)}", field=field)
    return rate


def parse_arrivals(text: str, rate_per_s: float, burst: float | None = None, field: str = "arrivals") -> Arrivals:
    """Read the shape of arrivals (see the module's text).

    Args:
        text: ``poisson``, ``gamma:cv=3``, ``onoff:on=10s,off=50s``, ...; empty = poisson.
        rate_per_s: mean rate.
        burst: coefficient of variation: short for ``gamma:cv=...``.

    Raises:
        InputError: what cannot be read or is out of range.
    """
    if burst is not None:
        if text and normalise(text) != "gamma":
            raise InputError(
                f"is short for arrivals gamma:cv=; leave one of the two out, got {show(text)}", field="burst"
            )
        text = f"gamma:cv={burst:g}"
    if math.isinf(rate_per_s) and normalise(text) not in ("", "poisson"):
        name = field if burst is None else "burst"
        raise InputError("at the rate inf all requests arrive at once, without gaps to shape; leave it out", field=name)
    kind, _, rest = (text or "poisson").partition(":")
    kind = kind.strip().lower().replace("-", "")
    if kind not in _KINDS:
        near = suggest(kind, _KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_KINDS)}"
        raise InputError(f"unknown arrivals {kind!r}{hint}", field=field)
    values = {k: v for k, v in _DEFAULTS.items() if k in _KINDS[kind]}
    for part in (x.strip() for x in rest.split(",") if x.strip()):
        key, equals, given = (x.strip() for x in part.partition("="))
        if not equals or key not in _KINDS[kind]:
            known = ", ".join(f"{k}=" for k in _KINDS[kind]) or "none"
            raise InputError(f"unknown option {part!r} of {kind}; known: {known}", field=field)
        values[key] = parse_quantity(given, "1" if key in ("cv", "peak") else "s", f"{field}.{key}")
    missing = [k for k in _KINDS[kind] if k not in values]
    if missing:
        raise InputError(f"{kind} needs {', '.join(k + '=' for k in missing)}", field=field)
    for key, value in values.items():
        least = 1.0 if key == "peak" else 0.0
        if not (math.isfinite(value) and value >= least) or (key in ("on", "period") and value == 0):
            raise InputError(f"expected {key} above {least:g}, got {value:g}", field=field)
    if values.get("peak", 1.0) > 2:
        raise InputError(f"expected a peak of at most 2 times the mean, got {values['peak']:g}", field=field)
    if values.get("cv", 1.0) > 50:
        raise InputError(f"expected a coefficient of variation of at most 50, got {values['cv']:g}", field=field)
    return Arrivals(
        kind,
        rate_per_s,
        cv=values.get("cv", 1.0),
        on_s=values.get("on", 0.0),
        off_s=values.get("off", 0.0),
        peak=values.get("peak", 1.0),
        period_s=values.get("period", 1.0),
    )
