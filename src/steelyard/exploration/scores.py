"""How good networks are: the user's table or function, or a proxy that is a formula of the graph, said to be one.

Proxies need no data and no weights. ``macs`` and ``parameters`` count; ``entropy`` is the sum over products of the
logarithm of the inputs of an output (Shen et al., DeepMAD, CVPR 2023, without its factor of width and its weights of
stages). None of them is an accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.space_price import SpacePrices
from steelyard.errors import InputError, Problem, raise_all, show, suggest
from steelyard.scenario.space import columns_of
from steelyard.users_code import file_and_name, run_file, theirs
from steelyard.workload.networks.search_space import Space

__all__ = ["PROXIES", "Score", "read_score"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Formulas of the graph, by name.
PROXIES = {
    "macs": "multiply-accumulates of an item",
    "parameters": "parameters",
    "entropy": "sum over products of the logarithm of the inputs of an output",
    "depth": "products",
    "activations": "elements that products put out",
}
#: Architectures that a function is called with at once.
_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Score:
    """What makes a network good; more is better."""

    name: str
    title: str
    proxy: bool
    codes: Codes | None = None
    """The architectures of a table, which alone have a score."""
    known: Floats | None = None
    """Their scores."""
    function: Callable[[list[str]], Any] | None = None

    def of(self, space: Space, codes: Codes, prices: SpacePrices) -> Floats:
        """Scores of architectures; NaN where there is none. Raises :class:`InputError`: the user's function fails."""
        if self.proxy:
            return np.asarray(prices[self.name](space.counts(codes)))
        if self.function is not None:
            parts = [self._called(space, codes[at : at + _AT_ONCE]) for at in range(0, len(codes), _AT_ONCE)]
            return np.concatenate(parts) if parts else np.zeros(0)
        return np.array([self._table.get(row.tobytes(), np.nan) for row in np.ascontiguousarray(codes)])

    @cached_property
    def _table(self) -> Mapping[bytes, float]:
        assert self.codes is not None and self.known is not None
        return {row.tobytes(): v for row, v in zip(np.ascontiguousarray(self.codes), self.known, strict=True)}

    def _called(self, space: Space, codes: Codes) -> Floats:
        assert self.function is not None
        with theirs(f"{self.name} failed", "score"):
            found = np.asarray(self.function([space.spell(c) for c in codes.tolist()]), dtype=np.float64)
        if found.shape != (len(codes),):
            shape = f"{len(codes)} numbers, one for each architecture"
            raise InputError(f"{self.name}: expected {shape}, got {show(str(found.shape))}", field="score")
        return found


def read_score(given: Any, space: Space) -> Score:
    """A score as it is given.

    Args:
        given: name of a proxy; path of a CSV with the columns ``architecture`` and ``score``; ``FILE.py:FUNCTION``,
            which runs the file; or a function, called with a list of architectures, that returns a number for each.
        space: whose architectures they are.

    Raises:
        InputError: none of these, or the table is wrong.
    """
    if callable(given):
        return Score(getattr(given, "__name__", "score"), "a function", False, function=given)
    if not isinstance(given, str):
        raise InputError(f"expected a proxy, a CSV file or a function, got {show(given)}", field="score")
    if given in PROXIES:
        return Score(given, PROXIES[given], True)
    if given.lower().endswith((".csv", ".txt")):
        return _table(given, space)
    file = file_and_name(given, "score", "FUNCTION")
    if file is None:
        near = suggest(given, PROXIES)
        words = f"expected {', '.join(PROXIES)}, a CSV file or FILE.py:FUNCTION, got {show(given)}"
        raise InputError(words + (f"; did you mean {near[0]!r}?" if near else ""), field="score")
    path, name = file
    function = vars(run_file(path, "score")).get(name)
    if not callable(function):
        raise InputError(f"no function {name!r} in {path}", field="score")
    return Score(name, f"{path.name}:{name}", False, function=function)


def _table(path: str, space: Space) -> Score:
    columns = columns_of(path, ("architecture", "score"))
    problems, values = [], []
    for row, text in enumerate(columns["score"], 2):
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            problems.append(Problem(f"score: row {row}", f"expected a number, got {show(text)}"))
        values.append(value)
    raise_all(problems[:10])
    codes = space.codes(a.removeprefix(f"{space.prefix}:") for a in columns["architecture"])
    return Score(path, "a table", False, codes=codes, known=np.array(values))
