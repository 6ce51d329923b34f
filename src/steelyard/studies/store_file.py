"""The file of a results store: who may open it, whether it is ours, and every way it can fail as one line.

Reading and writing go through :func:`opened`, which looks at the tables before anything is asked or written: a database
of something else is never touched. Databases are opened without extensions, without access to other files and without
what they may have brought themselves, so that a store from elsewhere can do nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from steelyard.errors import InputError, SteelyardError, escaped, show
from steelyard.scenario.fields import KINDS
from steelyard.studies.store_columns import ANSWERS

__all__ = [
    "FORM",
    "StoreBusy",
    "StoreError",
    "check_place",
    "copied",
    "created",
    "failing",
    "is_new",
    "locked",
    "opened",
    "tables",
]

#: Form of the tables; a store of another form is refused.
FORM = 2
#: How long a reader or a commit waits for another process to let go of the file, s.
WAIT_S = 5.0
#: Between two tries, s.
_AGAIN_S = 0.05
#: Longest reason of the database that is quoted, characters.
_QUOTED = 160
#: Bytes 8 to 11 of every DuckDB file.
_MAGIC = b"DUCK"
#: What another process that has the file open looks like.
_HELD = re.compile(r"could not set lock on file|being used by another process|different configuration", re.IGNORECASE)
#: What a full or failing disk looks like.
_UNWRITABLE = re.compile(
    r"no space left|disk quota|file too large|could not write|cannot write|read-only file ?system|input/output error"
    r"|permission denied|cannot open file|too many open files",
    re.IGNORECASE,
)
#: What the database reads as a place that is no file of this computer.
_ELSEWHERE = re.compile(r":memory:|md:|motherduck:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_SEALED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",
    "threads": "1",
}


class StoreBusy(SteelyardError):
    """Another process holds the store."""


class StoreError(SteelyardError):
    """The store cannot be read or written here and now: a full disk, a folder without permission."""


def duckdb_here() -> Any:
    """The database. Raises :class:`InputError` where it is not installed."""
    try:
        import duckdb
    except ImportError:
        raise InputError("the results store needs duckdb: pip install 'steelyard[store]'", field="store") from None
    return duckdb


def tables() -> dict[str, dict[str, str]]:
    """Our tables and their columns, each with its type."""
    texts = dict.fromkeys(("hash", "status", "problem"), "VARCHAR")
    rest = dict.fromkeys(("more", "sources", "version"), "VARCHAR")
    found = {
        "about": {"form": "BIGINT"},
        "studies": dict.fromkeys(("name", "kind", "document"), "VARCHAR") | {"points": "BIGINT", "version": "VARCHAR"},
        "points": {"study": "VARCHAR", "ordinal": "BIGINT", "case": "VARCHAR", "repeat": "BIGINT"}
        | {"axes": "VARCHAR", "hash": "VARCHAR"},
        "sources": {"id": "VARCHAR", "document": "VARCHAR"},
    }
    return found | {kind: texts | {c.name: c.sql for c in ANSWERS[kind]} | rest for kind in KINDS}


# ---------------------------------------------------------------------- the file


def check_place(path: Path) -> Path:
    """The file meant, links followed. Raises :class:`InputError` for what cannot be a store: a folder, a device."""
    duckdb_here()
    shown = _shown(path)
    if not path.name or _ELSEWHERE.match(str(path)):
        raise InputError(f"expected a file of this computer, got {shown}; --no-store keeps nothing", field="store")
    try:
        whole = path.resolve()
        if whole.is_dir():
            raise InputError(f"expected a file, got the folder {shown}", field="store")
        if not whole.parent.is_dir():
            raise InputError(f"no folder {_shown(whole.parent)}", field="store")
        if whole.exists() and not whole.is_file():
            raise InputError(f"expected a file, got {shown}, which is none", field="store")
        with contextlib.suppress(FileNotFoundError):
            os.stat(str(whole) + ".wal")  # noqa: PTH116 - a name too long for the file beside it is told here
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot use {shown}: {_reason(error)}", field="store") from None
    return whole


def is_new(file: Path) -> bool:
    """Whether nothing was ever written: there is no file, or an empty one as ``mktemp`` makes it."""
    try:
        return not file.exists() or file.stat().st_size == 0
    except OSError as error:
        raise _failure(file, error) from None


def created(file: Path) -> None:
    """Make the store where there is none yet, whole or not at all; the caller holds the lock.

    Raises:
        StoreError: it cannot be written.
    """
    if not is_new(file):
        return
    made = file.with_name(f".{file.name}.new")
    log = made.with_name(made.name + ".wal")
    with failing(file):
        for left in (made, log, file.with_name(file.name + ".wal")):
            left.unlink(missing_ok=True)
        try:
            db = duckdb_here().connect(str(made), config=_SEALED)
            try:
                db.execute("BEGIN")
                for name, columns in tables().items():
                    db.execute(f"CREATE TABLE {name} (" + ", ".join(f'"{c}" {t}' for c, t in columns.items()) + ")")
                db.execute("INSERT INTO about VALUES (?)", [FORM])
                db.execute("COMMIT")
            finally:
                db.close()
            if log.exists():  # the end of it did not get into the file
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if file.exists():
                shutil.copymode(file, made)
            made.replace(file)
        except BaseException:
            for half in (made, log):  # they would keep a full disk full
                half.unlink(missing_ok=True)
            raise


@contextmanager
def opened(file: Path, *, read_only: bool, outside: Path | None = None) -> Iterator[Any]:
    """The database of a store, checked to be one, waiting at most :data:`WAIT_S` while another process has it open.

    Args:
        file: of the store, not empty.
        read_only: nothing is written.
        outside: the only other folder that it may write to; None = none.

    Raises:
        InputError: it is no store of this version, or is damaged.
        StoreBusy: another process keeps it open.
        StoreError: it cannot be read or written here.
    """
    with failing(file):
        log = file.with_name(file.name + ".wal")
        if log.exists() and not log.is_file():  # a pipe would be waited for
            raise InputError(f"{_shown(log)} is in the way: the store needs that name", field="store")
        with file.open("rb") as raw:
            if raw.read(12)[8:] != _MAGIC:
                raise InputError(f"{_shown(file)} is no results store (no DuckDB file); give another", field="store")
        db = _connected(file, read_only, _SEALED if outside is None else {**_SEALED, "enable_external_access": "true"})
        try:
            if outside is not None:
                db.execute("SET allowed_directories = [" + _quoted(str(outside)) + "]")
                db.execute("SET enable_external_access = false")
            _check_tables(file, db)
            yield db
        finally:
            db.close()


def _connected(file: Path, read_only: bool, config: dict[str, str]) -> Any:
    duckdb, until = duckdb_here(), time.monotonic() + WAIT_S
    while True:
        try:
            return duckdb.connect(str(file), read_only=read_only, config=config)
        except duckdb.Error as error:
            if not _HELD.search(str(error)):
                raise
            if time.monotonic() > until:
                words = f"{_shown(file)} is open in another process; try again when it is done"
                raise StoreBusy(words) from None
        time.sleep(_AGAIN_S)


def _check_tables(file: Path, db: Any) -> None:
    """Refuse a database that is not a store of this form. Raises :class:`InputError`."""
    found: dict[str, dict[str, str]] = {}
    rows = db.execute(
        "SELECT t.table_name, c.column_name, c.data_type, c.column_default FROM duckdb_tables() t "
        "JOIN duckdb_columns() c ON t.table_oid = c.table_oid AND t.database_oid = c.database_oid "
        "WHERE t.schema_name = 'main' AND t.database_name = current_database()"
    ).fetchall()
    for table, column, kind, computed in rows:
        found.setdefault(table, {})[column] = kind if computed is None else f"{kind} = {computed}"
    wanted, other = tables(), "; give another file with --store"
    if found.get("about") != wanted["about"] or "studies" not in found or "points" not in found:
        raise InputError(f"{_shown(file)} is a database of something else" + other, field="store")
    forms = db.execute("SELECT form FROM about").fetchall()
    form = forms[0][0] if len(forms) == 1 else None
    if form != FORM:
        newer = isinstance(form, int) and form > FORM
        why = f"has tables of form {form}; this version reads {FORM}"
        way = ": it was written by a newer Steelyard, update this one or" if newer else ";"
        raise InputError(f"{_shown(file)} {why}{way} give another file with --store", field="store")
    for name, columns in wanted.items():
        if found.get(name) != columns:
            raise InputError(f"{_shown(file)}: its table {name} is that of another version" + other, field="store")


@contextmanager
def failing(file: Path) -> Iterator[None]:
    """Every failure of the database and of the file as one line that names the store and the way out."""
    duckdb = duckdb_here()
    try:
        yield
    except (duckdb.Error, OSError, json.JSONDecodeError, UnicodeError) as error:
        raise _failure(file, error) from None


def copied(source: Path, query: str, file: Path, options: str) -> int:
    """Write the rows of a query to another file; how many.

    Args:
        source: the store.
        query: what is written.
        file: alone in a folder of its own.
        options: of the database's ``COPY``.

    Raises:
        StoreError: it cannot be written.
    """
    with opened(source, read_only=True, outside=file.parent) as db:
        try:
            return int(db.execute(f"COPY ({query}) TO {_quoted(str(file))} ({options})").fetchall()[0][0])
        except duckdb_here().IOException as error:
            raise StoreError(f"cannot write {_shown(Path(file.name))}: {_reason(error)}") from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _failure(file: Path, error: BaseException) -> SteelyardError:
    text, shown = str(error), _shown(file)
    if isinstance(error, FileNotFoundError):
        return InputError(f"no results store at {shown}", field="store")
    if isinstance(error, OSError) or _UNWRITABLE.search(text):
        way = "what was committed stays; make room or give another file with --store, then go on with --resume"
        return StoreError(f"cannot use the store {shown}: {_reason(error)}; {way}")
    way = "it may be damaged: give another file with --store, or bring back a copy"
    return InputError(f"cannot read {shown}: {_reason(error)}; {way}", field="store")


def _reason(error: BaseException) -> str:
    words = error.strerror or str(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
    return escaped(" ".join(words.split()))[:_QUOTED]


def _shown(path: Path) -> str:
    return show(str(path))


# ---------------------------------------------------------------------- one writer


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """The lock file beside the store, held until the block ends or the process dies, however it dies.

    Raises:
        StoreBusy: another process holds it.
        StoreError: there can be no file beside the store.
    """
    held = _lock(file.with_name(file.name + ".lock"), file)
    try:
        yield
    finally:
        if held is not None:
            held.close()


def _lock(path: Path, store: Path) -> IO[bytes] | None:
    """The locked file; None where the system has no such locks (the database's own lock remains)."""
    try:
        import fcntl
    except ImportError:
        return None
    with failing(store):
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:  # its folder is there: one that takes no files, such as /proc
            raise StoreError(f"cannot write {_shown(store)}: no file can be made in {_shown(store.parent)}") from None
    file = os.fdopen(number, "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise StoreError(f"{_shown(path)} is in the way: the store needs that name")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = re.match(rb"process \d{1,10}", file.read(40) or b"")
        file.close()
        name = who[0].decode() if who else "another process"
        words = f"{_shown(store)} is being written by {name}; wait for it, or give another file with --store"
        raise StoreBusy(words) from None
    except OSError:  # a file system without locks
        return file
    with failing(store):
        file.truncate(0)
        file.write(f"process {os.getpid()}".encode())
    return file
