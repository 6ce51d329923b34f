"""Fields of a study that belong to some values of another field only, as in every space (:mod:`steelyard.choices`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steelyard.choices import Choices
from steelyard.errors import Problem, UnknownName, raise_all, show

__all__ = ["WHEN_FIELDS", "tied"]

#: Fields of a table of the array ``when``.
WHEN_FIELDS = ("field", "values", "choose")
#: Combinations at most.
_MOST = 250_000


def tied(
    tables: Sequence[tuple[str, str, Sequence[Any], dict[str, list[Any]]]], grid: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """Every combination of the fields, as values that go together; None: the field is not given there.

    Args:
        tables: of each its path, the field, its values, and the fields that are chosen there.
        grid: fields with all their values; those that others hang on are taken out of it.

    Raises:
        InputError: no such field or value; a field chosen twice; too many combinations.
    """
    problems: list[Problem] = []
    fields: list[str] = []
    values: list[tuple[Any, ...]] = []
    needs: list[tuple[int, tuple[int, ...]] | None] = []
    for path, name, some, chosen in tables:
        if name in grid:
            fields.append(name)
            values.append(tuple(grid.pop(name)))
            needs.append(None)
        if name not in fields:
            known = [*grid, *fields]
            problems.append(Problem(f"{path}.field", UnknownName("field of the grid", name, known).message))
            continue
        of = values[fields.index(name)]
        unknown = [v for v in some if v not in of]
        problems += [Problem(f"{path}.values", f"{show(str(v))} is no value of {name}") for v in unknown]
        problems += [
            Problem(f"{path}.{k}", "expected one or more") for k, v in (("values", some), ("choose", chosen)) if not v
        ]
        need = (fields.index(name), tuple(of.index(v) for v in some if v not in unknown))
        for field, each in chosen.items():
            if field in fields:
                problems.append(Problem(f"{path}.choose.{field}", "chosen twice"))
            fields.append(field)
            values.append(tuple(each))
            needs.append(need)
    raise_all(problems)
    codes = Choices(tuple(fields), tuple(values), tuple(needs)).listed(_MOST)
    columns = zip(fields, values, codes.T.tolist(), strict=True)
    return {name: [of[c] if c >= 0 else None for c in column] for name, of, column in columns}
