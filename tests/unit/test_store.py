"""The results store: whole batches or nothing, one writer, readers in between, the same rows whatever the order."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the store extra")

import duckdb

from steelyard.errors import InputError
from steelyard.studies import store_file
from steelyard.studies import store_results as results
from steelyard.studies.store_columns import ANSWERS, columns_of, number_names
from steelyard.studies.store_results import Store, StoreBusy

N = 40
POINTS: dict[str, list[Any]] = {
    "ordinal": list(range(N)),
    "case": [""] * N,
    "repeat": [0] * N,
    "axes": [f'{{"batch":{i},"flags.x":{i % 3}}}' for i in range(N)],
    "hash": [f"h{i % 30:02d}" for i in range(N)],
}
DOCUMENT = {"axes": ["batch", "flags.x"], "objectives": []}


def _commit(store: Store, numbers: list[int]) -> None:
    columns = {
        "status": ["ok" if i % 7 else "refused" for i in numbers],
        "problem": ["" if i % 7 else 'it "cannot", really' for i in numbers],
        "ttft_s": [None if i % 7 == 0 else i / 3 for i in numbers],
        "fits": [None if i % 7 == 0 else bool(i % 2) for i in numbers],
        "batch": numbers,
        "more": ["{}"] * len(numbers),
        "sources": ["a"] * len(numbers),
    }
    store.commit("estimate", [f"h{i:02d}" for i in numbers], columns, {"a": '{"sources":{"x":"y"}}'}, "1")


def _filled(path: Path, order: list[int], batch: int) -> Store:
    store = Store(path)
    with store.writing():
        store.begin("s", "estimate", DOCUMENT, POINTS, "1")
        for start in range(0, len(order), batch):
            _commit(store, order[start : start + batch])
    return store


def test_rows_do_not_depend_on_the_order_of_commits(tmp_path: Path) -> None:
    order = list(range(30))
    exported = []
    for k, batch in enumerate((30, 7, 1)):
        store = _filled(tmp_path / f"{k}.duckdb", order, batch)
        for form in ("csv", "parquet"):
            assert store.export(store.study("s"), tmp_path / f"{k}.{form}") == N
        exported.append((tmp_path / f"{k}.csv").read_bytes() + (tmp_path / f"{k}.parquet").read_bytes())
        random.Random(k).shuffle(order)
    assert exported[0] == exported[1] == exported[2]
    head = (tmp_path / "0.csv").read_text().splitlines()[0].split(",")
    assert head[:5] == ["ordinal", "case", "repeat", "hash", "flags.x"]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = _filled(tmp_path / "s.duckdb", list(range(30)), 11)
    rows = store.rows(store.study("s"))
    assert rows["ordinal"] == list(range(N))
    assert rows["ttft_s"] == [None if i % 7 == 0 else i / 3 for i in (j % 30 for j in range(N))]
    assert rows["fits"][:3] == [None, True, False]
    assert rows["axes"][4] == {"batch": 4, "flags.x": 1}
    assert rows["problem"][7] == 'it "cannot", really'
    assert store.sources(store.study("s"))["sources"] == {"x": "y"}


def test_an_answer_is_kept_once(tmp_path: Path) -> None:
    store = _filled(tmp_path / "s.duckdb", list(range(30)), 30)
    with store.writing():
        _commit(store, list(range(30)))
    with duckdb.connect(str(store.path), read_only=True) as db:
        assert db.execute("SELECT count(*), count(DISTINCT hash) FROM estimate").fetchone() == (30, 30)
        assert db.execute("SELECT count(*) FROM sources").fetchone() == (1,)


def test_a_batch_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _filled(tmp_path / "s.duckdb", list(range(10)), 10)
    whole = results._insert

    def breaks(db: Any, table: str, *rest: Any) -> None:
        if table == "sources":
            raise RuntimeError("half way")
        whole(db, table, *rest)

    monkeypatch.setattr(results, "_insert", breaks)
    with store.writing(), pytest.raises(RuntimeError):
        _commit(store, list(range(10, 20)))
    assert store.known("estimate", POINTS["hash"]) == {f"h{i:02d}" for i in range(10)}


def test_a_changed_study_replaces_its_points_and_keeps_answers(tmp_path: Path) -> None:
    store = _filled(tmp_path / "s.duckdb", list(range(30)), 30)
    fewer = {name: values[:5] for name, values in POINTS.items()}
    with store.writing():
        store.begin("s", "estimate", DOCUMENT, fewer, "1")
    found = store.study("s")
    assert (found.points, found.priced, found.finished) == (5, 5, True)


def test_readers_get_in_while_a_writer_holds_the_store(tmp_path: Path) -> None:
    store = _filled(tmp_path / "s.duckdb", list(range(10)), 10)
    code = "import sys; from steelyard.studies.store_results import Store\nprint(Store(sys.argv[1]).study('s').priced)"
    with store.writing():
        found = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "20"  # ten scenarios, each at two of the points


def test_a_second_writer_is_told_who_holds_it(tmp_path: Path) -> None:
    store = _filled(tmp_path / "s.duckdb", [1], 1)
    code = (
        "import sys; from steelyard.studies.store_results import Store\n"
        "with Store(sys.argv[1]).writing(): print('got it')"
    )
    run = [sys.executable, "-c", code, str(store.path)]
    with store.writing():
        refused = subprocess.run(run, capture_output=True, text=True)
    assert "StoreBusy" in refused.stderr and "being written by process" in refused.stderr
    assert subprocess.run(run, capture_output=True, text=True).stdout.strip() == "got it"


def test_a_reader_gives_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _filled(tmp_path / "s.duckdb", [1], 1)
    monkeypatch.setattr(store_file, "WAIT_S", 0.2)
    code = (
        "import sys, duckdb\ndb = duckdb.connect(sys.argv[1]); db.execute('SELECT 1'); print('open', flush=True)\n"
        "sys.stdin.readline()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    try:
        with pytest.raises(StoreBusy, match="open in another process"):
            store.studies()
    finally:
        other.communicate("\n")
    assert store.study("s").points == N


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results store"):
        Store(tmp_path / "none.duckdb").studies()
    with pytest.raises(InputError, match="got the folder"):
        Store(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        Store(tmp_path / "a" / "b.duckdb")
    (tmp_path / "text.duckdb").write_text("not a database " * 1000)
    with pytest.raises(InputError, match="is no results store"):
        Store(tmp_path / "text.duckdb").studies()
    store = _filled(tmp_path / "s.duckdb", [1], 1)
    with pytest.raises(InputError, match=r"no study 'ss'.*did you mean 's'"):
        store.study("ss")
    with duckdb.connect(str(store.path)) as db:
        db.execute("UPDATE about SET form = 99")
    with pytest.raises(InputError, match="form 99"), store.writing():
        pass


def test_columns_are_described() -> None:
    for kind, columns in ANSWERS.items():
        assert len(columns_of(kind)) == len(columns), f"{kind}: a name twice"
        for c in columns:
            assert c.doc and c.type in ("text", "whole", "number", "switch")
            assert bool(c.unit) == (c.type in ("whole", "number")), c
            if c.name.endswith("_s") and not c.name.endswith("per_s"):
                assert c.unit == "s", c
        assert number_names(kind)
