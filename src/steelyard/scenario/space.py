"""A question about architectures of a searched space: all of them, those of a file, or one on a device known by few."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.space_device import SpaceDevice, find_space_device
from steelyard.documents import is_file, read_text
from steelyard.errors import InputError, complete, show
from steelyard.scenario.fields import NETWORK, PRICE, fields_of
from steelyard.scenario.network import NetScenario, asks_net, read_net_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.networks.search_space import LARGEST, Space, space_of

if TYPE_CHECKING:
    from steelyard.scenario.scenario import Scenario

__all__ = ["SpaceScenario", "asks_space", "columns_of", "read_question", "read_space_scenario", "rows_of"]

#: What measured networks of a device do not say: they are as they were measured.
_MEASURED = ("model", "on", "batch", PRICE)
#: Endings of files of architectures.
_FILES = (".csv", ".txt")


@dataclass(frozen=True, eq=False)
class SpaceScenario:
    """Architectures of one space on one device."""

    space: Space
    codes: NDArray[np.int64]
    """``[n, places]``."""
    asked: str
    """What was asked for: ``all``, a file, an architecture."""
    device: SpaceDevice | None
    """What was measured on the device; None: priced."""
    network: NetScenario | None
    """The question about the first of them; None: no machine of this name, only what was measured."""
    batch: int
    words: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<SpaceScenario {len(self.codes):,} of {self.space.name} on {self.words.get('on')}>"


def asks_space(words: Mapping[str, Any]) -> bool:
    """Whether words ask about many architectures, or of one on a device that few were measured on."""
    model = words.get("model")
    found = space_of(model) if isinstance(model, str) else None
    if found is None:
        return False
    space, rest = found
    return _many(rest) or _device(words, space) is not None


def _many(rest: str) -> bool:
    return rest.strip().lower() == "all" or rest.lower().endswith(_FILES)


def _device(words: Mapping[str, Any], space: Space) -> SpaceDevice | None:
    """The measured device that words mean; none where they ask for what was not measured."""
    known, on = fields_of("estimate"), words.get("on")
    for name in NETWORK:
        if name in known and name not in _MEASURED and words.get(name) not in (None, "", known[name].default):
            return None
    batch = words.get("batch") or 1
    return find_space_device(on, space, int(batch) if str(batch).isdecimal() else 1) if isinstance(on, str) else None


@complete
def read_space_scenario(words: Mapping[str, Any], problems: Problems) -> SpaceScenario:
    """The question that words ask. Raises :class:`InputError`: architectures, machine, batch or another field."""
    space, rest = space_of(words["model"]) or (None, "")
    assert space is not None
    codes = problems.read(_codes, space, rest)
    device = _device(words, space)
    problems.done()
    assert codes is not None
    first = f"{space.prefix}:{space.spell(codes[0])}"
    network = None
    try:
        network = read_net_scenario({**words, "model": first}, Problems() if device else problems)
    except InputError:
        if device is None:
            raise
    batch = device.batch if device else network.batch if network else 1
    if network is not None:
        network = replace(network, batch=batch)
    return SpaceScenario(space, codes, rest.strip(), device, network, int(batch), words)


def _codes(space: Space, rest: str) -> NDArray[np.int64]:
    if rest.strip().lower() == "all":
        return space.all()
    if rest.lower().endswith(_FILES):
        columns = columns_of(rest, ("architecture",))
        return space.codes(columns["architecture"], columns["line"])
    return space.codes([rest])


def rows_of(text: str, name: str) -> list[list[str]]:
    """The rows of a CSV text. Raises :class:`InputError`: it is none."""
    try:
        return list(csv.reader(text.splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"no CSV file: {error}", field=name) from None


def columns_of(path: str | Path, wanted: Sequence[str], field: str = "architecture") -> dict[str, list[str]]:
    """Columns of a CSV file of architectures, which may have others; a file of one column needs no header.

    Args:
        path: the file.
        wanted: names of the columns.
        field: what named the file, for messages.

    Returns:
        the cells of every column that is wanted, and the number of their line in the file as ``line``.

    Raises:
        InputError: no file, no rows, a column is missing, or too many rows.
    """
    name = Path(path).name
    if not is_file(path):
        raise InputError(f"no file at {show(str(path))}", field=field)
    every = enumerate(read_text(path, field=field).splitlines(), 1)
    lines = {i: line for i, line in every if line.strip() and not line.lstrip().startswith("#")}
    if len(lines) > LARGEST:
        raise InputError(f"more than {LARGEST:,} rows", field=name)
    rows = [[cell.strip() for cell in row] for row in rows_of("\n".join(lines.values()), name)]
    numbers = list(lines)
    header = [cell.lower() for cell in rows[0]] if rows else []
    if wanted[0] not in header and len(wanted) == 1 and all(len(row) == 1 for row in rows):
        header, rows, numbers = list(wanted), [[], *rows], [0, *numbers]
    absent = [column for column in wanted if column not in header]
    if absent:
        raise InputError(f"expected the columns {' and '.join(wanted)}, got {show(', '.join(header))}", field=name)
    if len(rows) < 2:
        raise InputError("no rows below the header", field=name)
    at = [header.index(column) for column in wanted]
    numbered = list(zip(numbers[1:], rows[1:], strict=False))
    short = next((i for i, row in numbered if row and len(row) <= max(at)), 0)
    if short:
        raise InputError(f"line {short} has too few columns", field=name)
    found = {column: [row[i] for _, row in numbered if row] for column, i in zip(wanted, at, strict=True)}
    return {**found, "line": [str(i) for i, row in numbered if row]}


def read_question(words: Mapping[str, Any]) -> Scenario | NetScenario | SpaceScenario:
    """What the words of an estimate ask: a model that is served, a network, or many. Raises :class:`InputError`."""
    if asks_space(words):
        return read_space_scenario(words, Problems())
    if asks_net(words):
        return read_net_scenario(words, Problems())
    from steelyard.scenario.scenario import read_scenario

    return read_scenario("estimate", words, Problems())
