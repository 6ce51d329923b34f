"""Results on disk: one DuckDB file of studies, their points, and every answer once.

Tables: ``studies``; ``points`` (which scenario stands where in a study); one table per kind of answer (``estimate``,
``simulate``, ``plan``) with a row per scenario, keyed by its hash; ``sources`` (what answers rest on).

One process writes at a time: a sweep holds the lock file beside the store from beginning to end, and opens the
database only to commit, so that readers get in between commits. The system releases the lock when a process dies,
however it dies; a batch is in the store whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, show, suggest
from steelyard.studies.store_columns import ANSWERS, columns_of, number_names
from steelyard.studies.store_file import (
    FORM,
    StoreBusy,
    StoreError,
    check_place,
    copied,
    created,
    failing,
    is_new,
    locked,
    opened,
    tables,
)
from steelyard.writing import whole_file

__all__ = ["FORM", "Store", "StoreBusy", "StoreError", "StudyRecord"]

#: Rows handed to the database at once.
_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as the store knows it."""

    name: str
    kind: str
    document: Mapping[str, Any] = field(default_factory=dict)
    points: int = 0
    priced: int = 0
    """Points that have an answer."""
    version: str = ""

    @property
    def finished(self) -> bool:
        """Whether every point has an answer."""
        return self.priced >= self.points


class Store:
    """The results of studies in one file.

    Args:
        path: the file; made when something is first written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = check_place(self.path)

    # ------------------------------------------------------------------ opening

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """Hold the store for writing; it is made when there is none.

        Raises:
            InputError: the file is something else, damaged, or of another version.
            StoreBusy: another process writes.
            StoreError: it cannot be written.
        """
        if not is_new(self.file):
            with opened(self.file, read_only=True):
                pass  # nothing is written beside a database that is not ours
        with locked(self.file):
            created(self.file)
            yield self

    @property
    def empty(self) -> bool:
        """Whether nothing was ever written."""
        return is_new(self.file)

    def _reading(self) -> Any:
        return opened(self.file, read_only=True)

    def _changing(self) -> Any:
        return opened(self.file, read_only=False)

    # ------------------------------------------------------------------ writing

    def begin(
        self, name: str, kind: str, document: Mapping[str, Any], points: Mapping[str, Sequence[Any]], version: str
    ) -> None:
        """Record a study and its points (columns ``ordinal``, ``case``, ``repeat``, ``axes``, ``hash``), at once."""
        text = json.dumps(document, sort_keys=True, default=str)
        n = len(points["ordinal"])
        with self._changing() as db:
            found = db.execute("SELECT document, points FROM studies WHERE name = ?", [name]).fetchall()
            same = found == [(text, n)] and self._unchanged(db, name, points)
            if same:
                return
            db.execute("BEGIN")
            db.execute("DELETE FROM studies WHERE name = ?", [name])
            db.execute("DELETE FROM points WHERE study = ?", [name])
            db.execute("INSERT INTO studies VALUES (?, ?, ?, ?, ?)", [name, kind, text, n, version])
            columns = {k: ([name] * n if k == "study" else list(points[k]), t) for k, t in tables()["points"].items()}
            _insert(db, "points", columns, n)
            db.execute("COMMIT")

    @staticmethod
    def _unchanged(db: Any, name: str, points: Mapping[str, Sequence[Any]]) -> bool:
        rows = db.execute("SELECT hash, axes FROM points WHERE study = ? ORDER BY ordinal", [name]).fetchall()
        return bool(rows == list(zip(points["hash"], points["axes"], strict=True)))

    def commit(
        self,
        kind: str,
        hashes: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        sources: Mapping[str, str],
        version: str,
    ) -> None:
        """Add answers, all or none; those the store has already stay as they are.

        Args:
            kind: table.
            hashes: one per answer.
            columns: ``status``, ``problem``, ``more``, ``sources`` (an id) and the columns of the kind; absent = null.
            sources: documents by id.
            version: of the program that answered.
        """
        n = len(hashes)
        given = {**columns, "hash": list(hashes), "version": [version] * n}
        filled = {name: (given.get(name) or [None] * n, sql) for name, sql in tables()[kind].items()}
        with self._changing() as db:
            db.execute("BEGIN")
            _insert(db, kind, filled, n, f"hash NOT IN (SELECT hash FROM {kind})")  # noqa: S608
            ids = {"id": (list(sources), "VARCHAR"), "document": (list(sources.values()), "VARCHAR")}
            _insert(db, "sources", ids, len(sources), "id NOT IN (SELECT id FROM sources)")
            db.execute("COMMIT")

    def forget_failed(self, kind: str, study: str) -> int:
        """Drop the answers of a study's points that failed by no fault of the question; how many."""
        with self._changing() as db:
            found = db.execute(
                f"DELETE FROM {kind} WHERE status = 'failed' AND hash IN (SELECT hash FROM points WHERE study = ?)",  # noqa: S608
                [study],
            ).fetchall()
        return int(found[0][0]) if found else 0

    # ------------------------------------------------------------------ reading

    def known(self, kind: str, hashes: Sequence[str]) -> set[str]:
        """Which of these scenarios have an answer."""
        if self.empty:
            return set()
        with self._reading() as db:
            asked = {"hash": np.array(list(hashes), dtype=object)}
            db.register("asked", asked)
            rows = db.execute(f"SELECT hash FROM {kind} WHERE hash IN (SELECT hash FROM asked)").fetchall()  # noqa: S608
        return {r[0] for r in rows}

    def studies(self) -> list[StudyRecord]:
        """Every study, by name."""
        if self.file.exists() and self.empty:
            return []
        with self._reading() as db:
            rows = db.execute("SELECT name, kind, document, points, version FROM studies ORDER BY name").fetchall()
            found = [_record(self.path, row) for row in rows]
            priced = {
                kind: dict(
                    db.execute(f"SELECT study, count(*) FROM points JOIN {kind} USING (hash) GROUP BY 1").fetchall()  # noqa: S608
                )
                for kind in {s.kind for s in found}
            }
        return [replace(s, priced=priced[s.kind].get(s.name, 0)) for s in found]

    def study(self, name: str) -> StudyRecord:
        """One study. Raises :class:`InputError` when there is none of the name."""
        found = {s.name: s for s in self.studies()}
        if name not in found:
            near = suggest(name, found)
            words = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"no study {show(name)} in {show(str(self.path))}{words}", field="study")
        return found[name]

    def rows(self, study: StudyRecord) -> dict[str, list[Any]]:
        """The answers of a study's points in their order, a list per column; points without one are left out.

        Columns: ``ordinal``, ``case``, ``repeat``, ``axes`` (parsed), ``hash``, ``status``, ``problem``, then those of
        the kind.
        """
        with self._reading() as db:
            relation = db.execute(self._select(study.kind, "axes, hash, "), [study.name])
            names = [d[0] for d in relation.description]
            rows = relation.fetchall()
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {n: [] for n in names}
        with failing(self.file):
            columns["axes"] = [_table(a) for a in columns["axes"]]
            _check_rows(study, columns)
        return columns

    def export(self, study: StudyRecord, path: str | Path) -> int:
        """Write a study's rows as ``.csv`` or ``.parquet``; how many.

        The same study gives the same bytes, in whatever order and however often interrupted it was priced.
        """
        target = Path(path)
        form = "parquet" if target.suffix.lower() == ".parquet" else "csv"
        if not target.resolve().parent.is_dir():
            raise InputError(f"no folder {show(str(target.resolve().parent))}", field=form)
        name = study.name.replace("'", "''")
        query = self._select(study.kind, "hash, " + _axes_of(study)).replace("?", f"'{name}'")
        if form == "csv":
            with self._reading() as db:
                query = _no_formulas(db, query)
        options = "FORMAT parquet, COMPRESSION zstd" if form == "parquet" else "FORMAT csv, HEADER"
        with whole_file(target, form) as file:
            return copied(self.file, query, file, options)

    @staticmethod
    def _select(kind: str, more: str) -> str:
        names = "".join(f', "{c.name}"' for c in ANSWERS[kind])
        return (
            f'SELECT ordinal, "case", repeat, {more}status, problem{names} '  # noqa: S608
            f"FROM points JOIN {kind} USING (hash) WHERE study = ? ORDER BY ordinal"
        )

    def sources(self, study: StudyRecord) -> dict[str, Any]:
        """What the answers of a study rest on: ``sources``, ``guesses`` and ``assumptions`` of all of them."""
        with self._reading() as db:
            rows = db.execute(
                f"SELECT DISTINCT s.document FROM points JOIN {study.kind} a USING (hash) "  # noqa: S608
                "JOIN sources s ON s.id = a.sources WHERE study = ? ORDER BY 1",
                [study.name],
            ).fetchall()
        found: dict[str, Any] = {"sources": {}, "guesses": {}, "assumptions": []}
        with failing(self.file):
            documents = [_table(text) for (text,) in rows]
        for document in documents:
            for key in ("sources", "guesses"):
                part = document.get(key)
                found[key] |= part if isinstance(part, dict) else {}
            told = document.get("assumptions")
            found["assumptions"] += [a for a in told or () if isinstance(a, str) and a not in found["assumptions"]]
        return found


def _table(text: Any) -> dict[str, Any]:
    """A JSON object of the store. Raises ``JSONDecodeError`` for anything else, as damaged text does."""
    try:
        found = json.loads(text)
    except (TypeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise json.JSONDecodeError("expected an object", str(text)[:20], 0)
    return found


def _otherwise(what: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(f"{what} is not as it was written", "", 0)


def _check_rows(study: StudyRecord, columns: Mapping[str, list[Any]]) -> None:
    """Refuse rows that no sweep writes. Raises ``JSONDecodeError``."""
    for name in ("case", "status", "problem"):
        if not all(isinstance(v, str) for v in columns[name]):
            raise _otherwise(f"its column {name}")
    if not all(isinstance(v, int) for name in ("ordinal", "repeat") for v in columns[name]):
        raise _otherwise("the number of a point")
    plain = (str, int, float, bool, type(None))
    if not all(isinstance(v, plain) and v == v for axes in columns["axes"] for v in axes.values()):
        raise _otherwise("its column axes")


def _record(path: Path, row: Sequence[Any]) -> StudyRecord:
    """A study as it was written, checked. Raises :class:`InputError`."""
    name, kind, text, points, version = row
    with failing(path):
        document = _table(text)
        objectives = document.get("objectives", [])
        good = isinstance(name, str) and kind in ANSWERS and isinstance(points, int)
        good = good and all(isinstance(document.get(k, []), list) for k in ("axes", "objectives"))
        good = good and all(isinstance(a, str) for a in document.get("axes", []))
        if not (good and all(_objective(o, kind) for o in objectives) and isinstance(document.get("study", {}), dict)):
            raise _otherwise(f"its study {show(name)}")
    return StudyRecord(name, kind, document, points, 0, str(version))


def _objective(given: Any, kind: str) -> bool:
    """Whether it is an objective of a study of this kind."""
    if not isinstance(given, dict) or given.get("metric") not in number_names(kind):
        return False
    where, name = given.get("where", []), given.get("name", "")
    return (
        isinstance(name, str)
        and isinstance(given.get("maximise"), bool)
        and isinstance(where, list)
        and all(
            isinstance(c, list)
            and len(c) == 3
            and c[0] in columns_of(kind)
            and c[1] in ("<=", ">=", "==", "<", ">")
            and isinstance(c[2], int | float)
            for c in where
        )
    )


def _no_formulas(db: Any, query: str) -> str:
    """The query with a quote before every text that a spreadsheet would take for a formula."""
    columns = []
    for name, kind, *_ in db.execute(f"DESCRIBE {query}").fetchall():
        column = '"' + name.replace('"', '""') + '"'
        formula = f"regexp_matches({column}, '^[=+@\\t\\r-]') AND TRY_CAST({column} AS DOUBLE) IS NULL"
        text = f"CASE WHEN {formula} THEN chr(39) || {column} ELSE {column} END AS {column}"
        columns.append(text if kind == "VARCHAR" else column)
    return f"SELECT {', '.join(columns)} FROM ({query})"  # noqa: S608


def _axes_of(study: StudyRecord) -> str:
    """Swept fields that have no column of their own, as columns."""
    known = columns_of(study.kind)
    parts = []
    for name in study.document.get("axes", ()):
        if name == "case" or (name in known and known[name].asked):
            continue
        bare = name.replace('"', "").replace("'", "").replace("?", "")
        alias = f"asked_{bare}" if name in known else bare
        parts.append(f'axes->>\'$."{bare}"\' AS "{alias}", ')
    return "".join(parts)


def _insert(db: Any, table: str, columns: Mapping[str, tuple[Sequence[Any], str]], n: int, where: str = "") -> None:
    """Insert rows from columns, in slices."""
    for start in range(0, n, _ROWS):
        batch: dict[str, Any] = {}
        picked = []
        for name, (values, sql) in columns.items():
            batch[name], missing = _array(values[start : start + _ROWS], sql)
            if missing.any():  # DuckDB before 2 takes no masked arrays: it reads what lies under the mask
                batch[f"{name} missing"] = missing
            picked.append(f'CASE WHEN "{name} missing" THEN NULL ELSE "{name}" END' if missing.any() else f'"{name}"')
        db.register("batch", batch)
        names = ", ".join(f'"{name}"' for name in columns)
        condition = f" WHERE {where}" if where else ""
        db.execute(f"INSERT INTO {table} ({names}) SELECT {', '.join(picked)} FROM batch{condition}")  # noqa: S608
        db.unregister("batch")


def _array(values: Sequence[Any], sql: str) -> tuple[Any, NDArray[np.bool_]]:
    """A column for the database, and where it is null."""
    if sql == "VARCHAR":
        return np.array([None if v is None else str(v) for v in values], dtype=object), np.zeros(len(values), bool)
    missing = np.array([v is None or v != v for v in values], dtype=bool)
    kind = {"BIGINT": np.int64, "DOUBLE": np.float64, "BOOLEAN": np.bool_}[sql]
    plain: Any = np.array([0 if gone else v for v, gone in zip(values, missing, strict=True)], dtype=kind)
    return plain, missing
