"""Results on disk: one DuckDB file of studies, their points, and every answer once.

Tables: ``studies``; ``points`` (which scenario stands where in a study); one table per kind of answer (``estimate``,
``simulate``, ``plan``) with a row per scenario, keyed by its hash; ``sources`` (what answers rest on).

One process writes at a time: a sweep holds the lock file beside the store from beginning to end, and opens the
database only to commit, so that readers get in between commits. The system releases the lock when a process dies,
however it dies; a batch is in the store whole or not at all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, SteelyardError, show, suggest
from steelyard.studies.store_columns import ANSWERS, columns_of
from steelyard.writing import whole_file

__all__ = ["FORM", "Store", "StoreBusy", "StudyRecord"]

#: Form of the tables; a store of another form is refused.
FORM = 1
#: How long a reader or a commit waits for another process to let go of the file, s.
WAIT_S = 5.0
#: Rows handed to the database at once.
_ROWS = 20_000


class StoreBusy(SteelyardError):
    """Another process holds the store."""


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


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise InputError("the results store needs duckdb: pip install 'steelyard[store]'", field="store") from None
    return duckdb


class Store:
    """The results of studies in one file.

    Args:
        path: the file; made when something is first written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _duckdb()
        if self.path.is_dir():
            raise InputError(f"expected a file, got the folder {str(path)!r}", field="store")
        if not self.path.resolve().parent.is_dir():
            raise InputError(f"no folder {str(self.path.resolve().parent)!r}", field="store")

    # ------------------------------------------------------------------ opening

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """Hold the store for writing.

        Raises:
            StoreBusy: another process does.
        """
        lock = _lock(self.path.with_name(self.path.name + ".lock"), self.path)
        try:
            with self._open(read_only=False) as db:
                self._tables(db)
            yield self
        finally:
            if lock is not None:
                lock.close()

    @contextmanager
    def _open(self, *, read_only: bool) -> Iterator[Any]:
        """The database, waiting for at most :data:`WAIT_S` while another process has it open."""
        duckdb = _duckdb()
        if self.path.is_file() and self.path.stat().st_size == 0 and not read_only:
            self.path.unlink()  # of touch or mktemp: nothing is in it
        if read_only and not (self.path.is_file() and self.path.stat().st_size):
            raise InputError(f"no results store at {show(str(self.path))}", field="store")
        until = time.monotonic() + WAIT_S
        while True:
            try:
                db = duckdb.connect(str(self.path), read_only=read_only)
                break
            except duckdb.Error as error:
                if not isinstance(error, duckdb.IOException) or "lock" not in str(error):
                    raise self._failed(error) from error
                if time.monotonic() > until:
                    raise StoreBusy(f"{self.path} is open in another process; try again when it is done") from error
                time.sleep(0.05)
        try:
            db.execute("SET threads = 1")
            self._check_form(db, empty=not read_only)
            yield db
        except duckdb.Error as error:
            raise self._failed(error) from error
        finally:
            with suppress(duckdb.Error):  # what was committed is in the file's log
                db.close()

    def _failed(self, error: Exception) -> InputError:
        """What the database says, and the way out."""
        words = " ".join(str(error).split())[:300]
        way = "free the disk or restore a copy of it, or name another file with --store"
        return InputError(f"the results store {show(str(self.path))} cannot be used: {words}; {way}", field="store")

    def _check_form(self, db: Any, *, empty: bool) -> None:
        """Refuse a database that is not a results store of this version, before anything is written to it.

        Args:
            db: just opened.
            empty: one without any table is taken.
        """
        tables = {row[0] for row in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if empty and not tables:
            return
        name = show(str(self.path))
        if not {"about", "studies", "points", "sources"} <= tables:
            words = f"{name} is a database of something else; name another file with --store"
            raise InputError(words, field="store")
        found = [row[0] for row in db.execute("SELECT form FROM about").fetchall()]
        if found != [FORM]:
            words = f"{name} has tables of form {', '.join(map(str, found))}; this version reads {FORM}"
            raise InputError(f"{words}: use the one that wrote it, or another file with --store", field="store")

    def _tables(self, db: Any) -> None:
        db.execute("BEGIN")
        db.execute("CREATE TABLE IF NOT EXISTS about (form BIGINT)")
        if db.execute("SELECT form FROM about").fetchone() is None:
            db.execute("INSERT INTO about VALUES (?)", [FORM])
        db.execute(
            "CREATE TABLE IF NOT EXISTS studies (name VARCHAR, kind VARCHAR, document VARCHAR, points BIGINT, "
            "version VARCHAR)"
        )
        db.execute(
            'CREATE TABLE IF NOT EXISTS points (study VARCHAR, ordinal BIGINT, "case" VARCHAR, repeat BIGINT, '
            "axes VARCHAR, hash VARCHAR)"
        )
        db.execute("CREATE TABLE IF NOT EXISTS sources (id VARCHAR, document VARCHAR)")
        for kind, columns in ANSWERS.items():
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {kind} (hash VARCHAR, status VARCHAR, problem VARCHAR, "
                + "".join(f'"{c.name}" {c.sql}, ' for c in columns)
                + "more VARCHAR, sources VARCHAR, version VARCHAR)"
            )
        db.execute("COMMIT")

    # ------------------------------------------------------------------ writing

    def begin(
        self, name: str, kind: str, document: Mapping[str, Any], points: Mapping[str, Sequence[Any]], version: str
    ) -> None:
        """Record a study and its points (columns ``ordinal``, ``case``, ``repeat``, ``axes``, ``hash``), at once."""
        text = json.dumps(document, sort_keys=True, default=str)
        n = len(points["ordinal"])
        with self._open(read_only=False) as db:
            found = db.execute("SELECT document, points FROM studies WHERE name = ?", [name]).fetchone()
            same = found == (text, n) and self._unchanged(db, name, points)
            if same:
                return
            db.execute("BEGIN")
            db.execute("DELETE FROM studies WHERE name = ?", [name])
            db.execute("DELETE FROM points WHERE study = ?", [name])
            db.execute("INSERT INTO studies VALUES (?, ?, ?, ?, ?)", [name, kind, text, n, version])
            types = {"ordinal": "BIGINT", "case": "VARCHAR", "repeat": "BIGINT", "axes": "VARCHAR", "hash": "VARCHAR"}
            columns = {"study": ([name] * n, "VARCHAR"), **{k: (list(points[k]), t) for k, t in types.items()}}
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
        known = columns_of(kind)
        types = {"hash": "VARCHAR", "status": "VARCHAR", "problem": "VARCHAR"}
        types |= {name: c.sql for name, c in known.items()} | dict.fromkeys(("more", "sources", "version"), "VARCHAR")
        given = {**columns, "hash": list(hashes), "version": [version] * n}
        filled = {name: (given.get(name) or [None] * n, sql) for name, sql in types.items()}
        with self._open(read_only=False) as db:
            db.execute("BEGIN")
            _insert(db, kind, filled, n, f"hash NOT IN (SELECT hash FROM {kind})")  # noqa: S608
            ids = {"id": (list(sources), "VARCHAR"), "document": (list(sources.values()), "VARCHAR")}
            _insert(db, "sources", ids, len(sources), "id NOT IN (SELECT id FROM sources)")
            db.execute("COMMIT")

    def forget_failed(self, kind: str, study: str) -> int:
        """Drop the answers of a study's points that failed by no fault of the question; how many."""
        with self._open(read_only=False) as db:
            found = db.execute(
                f"DELETE FROM {kind} WHERE status = 'failed' AND hash IN (SELECT hash FROM points WHERE study = ?)",  # noqa: S608
                [study],
            ).fetchone()
        return int(found[0]) if found else 0

    # ------------------------------------------------------------------ reading

    def known(self, kind: str, hashes: Sequence[str]) -> set[str]:
        """Which of these scenarios have an answer."""
        if not self.path.exists():
            return set()
        with self._open(read_only=True) as db:
            asked = {"hash": np.array(list(hashes), dtype=object)}
            db.register("asked", asked)
            rows = db.execute(f"SELECT hash FROM {kind} WHERE hash IN (SELECT hash FROM asked)").fetchall()  # noqa: S608
        return {r[0] for r in rows}

    def studies(self) -> list[StudyRecord]:
        """Every study, by name."""
        with self._open(read_only=True) as db:
            rows = db.execute("SELECT name, kind, document, points, version FROM studies ORDER BY name").fetchall()
            found = []
            for name, kind, document, points, version in rows:
                priced = db.execute(
                    f"SELECT count(*) FROM points JOIN {kind} USING (hash) WHERE study = ?",  # noqa: S608
                    [name],
                ).fetchone()
                found.append(StudyRecord(name, kind, json.loads(document), points, int(priced[0]), version))
        return found

    def study(self, name: str) -> StudyRecord:
        """One study. Raises :class:`InputError` when there is none of the name."""
        found = {s.name: s for s in self.studies()}
        if name not in found:
            near = suggest(name, found)
            words = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"no study {name!r} in {str(self.path)!r}{words}", field="study")
        return found[name]

    def rows(self, study: StudyRecord) -> dict[str, list[Any]]:
        """The answers of a study's points in their order, a list per column; points without one are left out.

        Columns: ``ordinal``, ``case``, ``repeat``, ``axes`` (parsed), ``hash``, ``status``, ``problem``, then those of
        the kind.
        """
        with self._open(read_only=True) as db:
            relation = db.execute(self._select(study.kind, "axes, hash, "), [study.name])
            names = [d[0] for d in relation.description]
            rows = relation.fetchall()
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {n: [] for n in names}
        columns["axes"] = [json.loads(a) for a in columns["axes"]]
        return columns

    def export(self, study: StudyRecord, path: str | Path) -> int:
        """Write a study's rows as ``.csv`` or ``.parquet``; how many.

        The same study gives the same bytes, in whatever order and however often interrupted it was priced.
        """
        target = Path(path)
        form = "parquet" if target.suffix.lower() == ".parquet" else "csv"
        if not target.resolve().parent.is_dir():
            raise InputError(f"no folder {str(target.resolve().parent)!r}", field=form)
        options = "FORMAT parquet, COMPRESSION zstd" if form == "parquet" else "FORMAT csv, HEADER"
        with whole_file(target, form) as file, self._open(read_only=True) as db:
            quoted = str(file).replace("'", "''")
            name = study.name.replace("'", "''")
            query = self._select(study.kind, "hash, " + _axes_of(study)).replace("?", f"'{name}'")
            if form == "csv":
                query = _no_formulas(db, query)
            found = db.execute(f"COPY ({query}) TO '{quoted}' ({options})").fetchone()
        return int(found[0])

    @staticmethod
    def _select(kind: str, more: str) -> str:
        names = "".join(f', "{c.name}"' for c in ANSWERS[kind])
        return (
            f'SELECT ordinal, "case", repeat, {more}status, problem{names} '  # noqa: S608
            f"FROM points JOIN {kind} USING (hash) WHERE study = ? ORDER BY ordinal"
        )

    def sources(self, study: StudyRecord) -> dict[str, Any]:
        """What the answers of a study rest on: ``sources``, ``guesses`` and ``assumptions`` of all of them."""
        with self._open(read_only=True) as db:
            rows = db.execute(
                f"SELECT DISTINCT s.document FROM points JOIN {study.kind} a USING (hash) "  # noqa: S608
                "JOIN sources s ON s.id = a.sources WHERE study = ? ORDER BY 1",
                [study.name],
            ).fetchall()
        found: dict[str, Any] = {"sources": {}, "guesses": {}, "assumptions": []}
        for (text,) in rows:
            document = json.loads(text)
            for key in ("sources", "guesses"):
                found[key] |= document.get(key, {})
            found["assumptions"] += [a for a in document.get("assumptions", []) if a not in found["assumptions"]]
        return found


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


def _lock(path: Path, store: Path) -> IO[str] | None:
    """The lock file, held until it is closed or the process ends; None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:  # the database's own lock remains
        return None
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        words = f"cannot write beside {show(str(store))}: {error.strerror or error}; name another file with --store"
        raise InputError(words, field="store") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        raise StoreBusy(f"{store} is being written by {who}; wait for it, or give another file with --store") from None
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file


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
