"""Plain values for JSON: no numpy types, no NaN, no infinities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["ESTIMATE", "plain"]

#: Schema of the document of an estimate, of a served model and of a network.
ESTIMATE = "steelyard.estimate/2"

_AS_IT_IS = frozenset((str, int, bool))


def plain(value: Any) -> Any:
    """``value`` made of dicts, lists, text, bools, ints and finite floats; what is not finite becomes ``None``."""
    kind = type(value)  # the kinds that nearly all of a document is of go first: abstract classes are slow to ask
    if value is None or kind in _AS_IT_IS:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is list or kind is tuple:
        return [plain(v) for v in value]
    if kind is dict:
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
