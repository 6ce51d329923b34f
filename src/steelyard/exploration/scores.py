"""How good networks are: the user's table or function, or a proxy that is a formula of the graph, said to be one.

Proxies need no data and no weights. ``macs`` and ``parameters`` count; ``entropy`` is the sum over products of the
logarithm of the inputs of an output (Shen et al., DeepMAD, CVPR 2023, without its factor of width and its weights of
stages). None of them is an accuracy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.networks import twice
from steelyard.cost.space_price import SpacePrices
from steelyard.documents import is_file
from steelyard.errors import InputError, Problem, raise_all, show, suggest
from steelyard.scenario.space import columns_of
from steelyard.studies.answers import OK, REFUSED, Chunk, Priced
from steelyard.studies.executors import MAX_JOBS, check_executor, execute
from steelyard.users_code import file_and_name, run_file, theirs
from steelyard.workload.networks.search_space import Space

__all__ = ["PROXIES", "Score", "read_score", "score_chunk"]

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
#: Architectures whose process died after which a search ends, if no other was scored.
_DIED = 8


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
    function: Callable[..., Any] | None = None
    file: str = ""
    """``FILE.py``, or the module, that has the function, which other processes can run."""
    executor: str = "serial"
    """Who calls it: ``serial``, ``process`` or ``ray``."""
    jobs: int = 1

    def of(self, space: Space, codes: Codes, prices: SpacePrices, effort: float = 1.0) -> Floats:
        """Scores of architectures; NaN where there is none.

        Args:
            space: whose architectures they are.
            codes: the architectures.
            prices: what proxies are read off.
            effort: share of the whole effort, for functions with that parameter.

        Raises:
            InputError: the user's function fails.
        """
        if self.proxy:
            return np.asarray(prices[self.name](space.counts(codes)))
        if self.function is not None and self.executor != "serial":
            return self._elsewhere(space, codes, effort)
        if self.function is not None:
            parts = [self._called(space, codes[at : at + _AT_ONCE], effort) for at in range(0, len(codes), _AT_ONCE)]
            return np.concatenate(parts) if parts else np.zeros(0)
        return np.array([self._table.get(row.tobytes(), np.nan) for row in np.ascontiguousarray(codes)])

    @cached_property
    def efforts(self) -> bool:
        """Whether it can be asked with a part of the effort: a function with a parameter ``effort``."""
        try:
            return self.function is not None and "effort" in signature(self.function).parameters
        except (TypeError, ValueError):  # a function that does not say
            return False

    @property
    def content(self) -> Any:
        """What a search with it asks for: the name, of a table its rows."""
        return self.name if self.known is None or self.codes is None else [self.codes.tolist(), self.known.tolist()]

    @cached_property
    def _table(self) -> Mapping[bytes, float]:
        assert self.codes is not None and self.known is not None
        return {row.tobytes(): v for row, v in zip(np.ascontiguousarray(self.codes), self.known, strict=True)}

    def _elsewhere(self, space: Space, codes: Codes, effort: float) -> Floats:
        """Scores by the executors of sweeps: NaN where a process died. Raises :class:`InputError`: it fails."""
        names = [space.spell(c) for c in codes.tolist()]
        size = max(1, -(-len(names) // (4 * max(self.jobs, 1))))
        chunks = [_chunk(self.file, self.name, names[at : at + size], effort) for at in range(0, len(names), size)]
        found, died = dict[str, float](), 0
        for _, priced in execute(self.executor, chunks, self.jobs, score_chunk):
            wrong = next((p for p, s in zip(priced.problems, priced.statuses, strict=True) if s == REFUSED), "")
            if wrong:
                raise InputError(wrong, field="score")
            found |= dict(zip(priced.hashes, priced.columns.get("score", []), strict=False))
            died += sum(status != OK for status in priced.statuses)
            if died >= _DIED and not np.isfinite(list(found.values())).any():
                said = next(p for p, s in zip(priced.problems, priced.statuses, strict=True) if s != OK)
                raise InputError(f"{self.name} of each of {died:,} architectures: {said}", field="score")
        return np.array([found.get(n, np.nan) for n in names], dtype=np.float64)

    def _called(self, space: Space, codes: Codes, effort: float) -> Floats:
        return self.scored([space.spell(c) for c in codes.tolist()], effort)

    def scored(self, names: list[str], effort: float = 1.0) -> Floats:
        """Numbers that the user's function gives. Raises :class:`InputError`: it fails."""
        assert self.function is not None
        with theirs(f"{self.name} failed", "score"):
            more = {"effort": effort} if self.efforts else {}
            found = np.asarray(self.function([*names], **more), dtype=np.float64)
        if found.shape != (len(names),):
            shape = f"{len(names)} numbers, one for each architecture"
            raise InputError(f"{self.name}: expected {shape}, got {show(str(found.shape))}", field="score")
        return found


def _chunk(file: str, name: str, names: list[str], effort: float) -> Chunk:
    return Chunk("score", file, tuple(names), tuple({"function": name, "effort": effort} for _ in names))


def score_chunk(chunk: Chunk) -> Priced:
    """Scores of the architectures of a chunk, where it was sent to; ``folder`` is the user's file or module."""
    names = list(chunk.hashes)
    try:
        function = _function(chunk.folder, chunk.values[0]["function"])
        score = Score(chunk.values[0]["function"], "", False, function=function)
        values = score.scored(names, chunk.values[0]["effort"]).tolist()
        statuses, problems = [OK] * len(names), [""] * len(names)
    except InputError as error:
        values, statuses, problems = [], [REFUSED] * len(names), [str(error)] * len(names)
    texts = ["{}"] * len(names)
    return Priced("score", names, statuses, problems, {"score": values} if values else {}, texts, list(texts))


@lru_cache(maxsize=4)
def _function(path: str, name: str) -> Callable[[list[str]], Any]:
    if path.endswith(".py"):
        module = run_file(Path(path), "score")
    else:
        with theirs(f"{path} failed", "score"):
            module = import_module(path)
    function = vars(module).get(name)
    if not callable(function):
        raise InputError(f"no function {name!r} in {path}", field="score")
    return function  # type: ignore[no-any-return]


def _place(given: str) -> tuple[str, str] | None:
    """File, or installed module, and function that a score says; None for another text.

    Raises:
        InputError: half of it is missing, or there is no such file or module.
    """
    module, _, name = given.rpartition(":")
    parts = module.split(".")
    if module.endswith(".py") or not all(part.isidentifier() for part in (*parts, name)):
        file = file_and_name(given, "score", "FUNCTION")
        return None if file is None else (str(file[0].resolve()), file[1])
    if is_file(here := Path(*parts).with_suffix(".py")):
        return str(here.resolve()), name
    with suppress(ImportError, ValueError):
        if find_spec(parts[0]) is not None:
            return module, name
    raise InputError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {show(given)}: no such module", field="score")


def read_score(given: Any, space: Space, executor: str = "") -> Score:
    """A score as it is given.

    Args:
        given: name of a proxy; path of a CSV with the columns ``architecture`` and ``score``; ``FILE.py:FUNCTION``
            or ``MODULE:FUNCTION``, which runs it; or a function, called with a list of architectures, that returns a
            number for each. A function with a parameter ``effort`` can be asked by solvers with a share of the whole
            effort, of the epochs of a training say.
        space: whose architectures they are.
        executor: who calls ``FILE.py:FUNCTION``: ``serial``, ``process:JOBS`` or ``ray``, as for sweeps; empty: serial.

    Raises:
        InputError: none of these, or the table is wrong.
    """
    name, _, count = executor.partition(":")
    name = name or "serial"
    check_executor(name)
    if not re.fullmatch(r"\d{0,4}", count) or not 0 <= int(count or 0) <= MAX_JOBS:
        raise InputError(f"expected NAME or NAME:JOBS, such as process:4, got {show(executor)}", field="executor")
    jobs = int(count or 0) or (0 if name == "ray" else os.cpu_count() or 1)
    if name != "serial" and not (isinstance(given, str) and ":" in given):
        words = "only of a score FILE.py:FUNCTION or MODULE:FUNCTION, which other processes can run"
        raise InputError(words, field="executor")
    if callable(given):
        return Score(getattr(given, "__name__", "score"), "a function", False, function=given)
    if not isinstance(given, str):
        raise InputError(f"expected a proxy, a CSV file or a function, got {show(given)}", field="score")
    if given in PROXIES:
        return Score(given, PROXIES[given], True)
    if given.lower().endswith((".csv", ".txt")):
        return _table(given, space)
    place = _place(given)
    if place is None:
        near = suggest(given, PROXIES)
        words = f"expected {', '.join(PROXIES)}, a CSV file, FILE.py:FUNCTION or MODULE:FUNCTION, got {show(given)}"
        raise InputError(words + (f"; did you mean {near[0]!r}?" if near else ""), field="score")
    own, of = place
    title = f"{Path(own).name}:{of}"
    _function.cache_clear()
    return Score(of, title, False, function=_function(own, of), file=own, executor=name, jobs=jobs)


def _table(path: str, space: Space) -> Score:
    columns = columns_of(path, ("architecture", "score"), "score")
    problems, values = [], []
    for line, text in zip(columns["line"], columns["score"], strict=True):
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            problems.append(Problem(f"score: line {line}", f"expected a number, got {show(text)}"))
        values.append(value)
    raise_all(problems[:10])
    names = (a.removeprefix(f"{space.prefix}:") for a in columns["architecture"])
    codes = space.codes(names, columns["line"])
    again, lines = list(twice([row.tobytes() for row in codes]).items())[:10], columns["line"]
    said = "is of the architecture of line {}; give each once"
    raise_all([Problem(f"score: line {lines[i]}", said.format(lines[j])) for i, j in again])
    return Score(path, "a table", False, codes=codes, known=np.array(values))
