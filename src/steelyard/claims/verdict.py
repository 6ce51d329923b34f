"""What a prediction says of a published number.

``reproduced``
    within 25 %: ``published / 1.25 <= predicted <= 1.25 published``. Of a reduction in % what remains is judged (95 %
    less: a twentieth), of a gain the whole, and either itself must be within a factor of two; of a published range
    lying inside it, of an exponent a distance of at most 0.25, of "at least" and "at most" being on that side, by at
    most a factor of two.
``direction``
    the same side of no change. A value without a baseline: within a factor of two.
``missed``
    neither.
``assumed``, ``context``, ``planned``
    the number is an input of the scenario; there is nothing to price, or what it is of cannot be asked, and a reason
    stands with it; the part that would price it is not there yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from steelyard.claims.paper import Claim

__all__ = ["JUDGED", "SAME", "VERDICTS", "WITHIN", "judge"]

#: Every verdict, the best first; the first three are of what was asked.
VERDICTS = ("reproduced", "direction", "missed", "assumed", "context", "planned")
JUDGED = VERDICTS[:3]
#: Most that a reproduced number is off, as a ratio.
WITHIN = 1.25
#: The same of a value without a baseline whose direction is right, of a change in %, and of an exponent as a distance.
_FAR, _APART = 2.0, 0.25
#: Figures this near are one: a change that is rounding is none.
SAME = 1e-6

Number = float | Sequence[float]


def judge(claim: Claim, predicted: Number | None) -> str:
    """The verdict on a prediction in the claim's unit; None: nothing could be asked."""
    if claim.verdict:
        return claim.verdict
    if predicted is None:
        return "planned" if not claim.runs else "missed"
    published = claim.published
    if published is None:
        moved = predicted if isinstance(predicted, int | float) else predicted[-1]
        return "direction" if _moved(claim, float(moved)) else "missed"
    if isinstance(published, list | tuple) and not isinstance(predicted, int | float):
        pairs = list(zip(published, predicted, strict=False))
        found = {_one(claim, float(p), float(q)) for p, q in pairs} if len(published) == len(predicted) else {"missed"}
        return next(v for v in ("missed", "direction", "reproduced") if v in found)
    value = float(predicted if isinstance(predicted, int | float) else predicted[-1])
    if isinstance(published, list | tuple):
        low, high = min(published), max(published)
        if low <= value <= high:
            return "reproduced"
        return _one(claim, float(low if value < low else high), value, near=False)
    return _one(claim, float(published), value)


def _one(claim: Claim, published: float, predicted: float, near: bool = True) -> str:
    if not math.isfinite(predicted):
        return "missed"
    if claim.form == "exponent":
        if abs(published - predicted) <= _APART:
            return "reproduced"
        return "direction" if abs(published - predicted) <= 2 * _APART else "missed"
    theirs, ours = _remaining(claim, published), _remaining(claim, predicted)
    if claim.bound and (predicted >= published if claim.bound == "least" else predicted <= published):
        far = not (theirs > 0 and ours > 0 and 1 / _FAR <= ours / theirs <= _FAR)
        return "direction" if far else "reproduced"
    if claim.form in ("reduction", "gain"):
        near = near and published * predicted > 0 and 1 / _FAR <= predicted / published <= _FAR
    if near and theirs > 0 and ours > 0 and 1 / WITHIN <= ours / theirs <= WITHIN:
        return "reproduced"
    if claim.form in ("value", "difference"):
        same = published * predicted > 0 and 1 / _FAR <= predicted / published <= _FAR
        return "direction" if same else "missed"
    return "direction" if _moved(claim, predicted, _moved(claim, published)) else "missed"


def _remaining(claim: Claim, value: float) -> float:
    """What is judged: of a reduction in % what is left, of a gain in % the whole."""
    if claim.form == "reduction":
        return 1 - value * claim.factor
    return 1 + value * claim.factor if claim.form == "gain" else value


def _moved(claim: Claim, value: float, side: bool = True) -> bool:
    """Whether a number is on a side of no change; ``side``: that of a number the paper published."""
    if claim.form not in ("ratio", "inverse", "reduction", "gain", "difference"):
        return value > 0
    change = value * claim.factor - (1 if claim.form in ("ratio", "inverse") else 0)
    still = claim.form != "difference" and abs(change) <= SAME
    return not still and (change > 0) == side
