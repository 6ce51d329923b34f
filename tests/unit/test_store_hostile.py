"""What may lie at the path of a store: every kind ends in one line, and a foreign database is not written to."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.studies.store_file import copied, opened

duckdb = pytest.importorskip("duckdb", reason="needs the store extra")

STUDY = """name = "s"
kind = "estimate"
[fixed]
model = "llama-3.1-8b"
on = "h100_sxm"
[grid]
batch = "1-4"
"""
SWEEP = ["study", "s.toml", "--quiet", "--executor", "serial", "--store"]
REPORT = ["report", "s", "--store"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(STUDY)
    return tmp_path


def _ends(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = main(words)
    err = capsys.readouterr().err
    assert err.count("\n") <= 1, err
    return code, err


def test_an_empty_file_is_a_new_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "e.duckdb").touch()
    assert _ends([*REPORT, "e.duckdb"], capsys)[0] == 2
    assert _ends([*SWEEP, "e.duckdb"], capsys) == (0, "")
    assert _ends([*REPORT, "e.duckdb"], capsys)[0] == 0


def test_a_foreign_database_is_left_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with duckdb.connect("f.duckdb") as db:
        db.execute("CREATE TABLE studies (a INT)")
    before = (folder / "f.duckdb").read_bytes()
    for words in ([*SWEEP, "f.duckdb"], [*SWEEP, "f.duckdb", "--dry-run"], [*REPORT, "f.duckdb"]):
        code, err = _ends(words, capsys)
        assert code == 2
        assert "something else" in err
        assert "--store" in err
    assert (folder / "f.duckdb").read_bytes() == before


def test_a_store_of_a_newer_version_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "n.duckdb"]) == 0
    with duckdb.connect("n.duckdb") as db:
        db.execute("UPDATE about SET form = 99")
    for words in ([*SWEEP, "n.duckdb", "--resume"], [*REPORT, "n.duckdb"]):
        code, err = _ends(words, capsys)
        assert code == 2
        assert "form 99" in err


def test_damaged_stores_end_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "d.duckdb"]) == 0
    good = (folder / "d.duckdb").read_bytes()
    for seed in range(12):
        draw, bad = random.Random(seed), bytearray(good)
        for _ in range(200):
            bad[draw.randrange(len(bad))] ^= 255
        (folder / "g.duckdb").write_bytes(bad if seed % 3 else good[: draw.randrange(len(good))])
        for words in ([*REPORT, "g.duckdb"], [*SWEEP, "g.duckdb", "--resume"]):
            assert _ends(words, capsys)[0] in (0, 2)


def test_a_folder_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = os.open

    def refused(path: Any, *more: Any, **options: Any) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *more, **options)

    monkeypatch.setattr(os, "open", refused)
    code, err = _ends([*SWEEP, "x.duckdb"], capsys)
    assert code == 1
    assert "cannot use the store" in err and "x.duckdb': Permission denied" in err
    assert "--store" in err


@pytest.mark.parametrize("path", ["md:x", "motherduck:x", ":memory:", "http://127.0.0.1:1/x", "s3://a/b.duckdb"])
def test_what_is_no_file_of_this_computer_is_refused(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([*SWEEP, path], [*SWEEP, path, "--dry-run"], [*REPORT, path]):
        code, err = _ends(words, capsys)
        assert code == 2
        assert "expected a file of this computer" in err


TAMPERED = [
    "UPDATE studies SET kind = 'x'",
    "UPDATE studies SET kind = 'points; DROP TABLE points'",
    "UPDATE studies SET kind = NULL",
    "UPDATE studies SET points = NULL",
    "UPDATE studies SET document = '{'",
    "UPDATE studies SET document = '[]'",
    "UPDATE studies SET document = NULL",
    "UPDATE studies SET document = repeat('[', 100000)",
    """UPDATE studies SET document = '{"objectives": [{"metric": 1}], "axes": [3]}'""",
    """UPDATE studies SET document = '{"objectives": {"a": 1}}'""",
    """UPDATE studies SET document =
    '{"objectives": [{"metric": "ttft_s", "maximise": true, "where": [["ttft_s", "!", 0]]}]}'""",
    "UPDATE points SET axes = '5'",
    "UPDATE points SET axes = NULL",
    """UPDATE points SET axes = '{"batch": [1]}'""",
    """UPDATE points SET axes = '{"batch": NaN}'""",
    """UPDATE points SET "case" = NULL""",
    "UPDATE points SET ordinal = NULL",
    "UPDATE estimate SET status = NULL",
    "UPDATE estimate SET problem = NULL",
    "UPDATE sources SET document = '[1]'",
    "UPDATE sources SET document = '{'",
    "DELETE FROM about",
    "INSERT INTO about VALUES (1)",
    "ALTER TABLE about ALTER form TYPE VARCHAR",
    "ALTER TABLE estimate DROP COLUMN ttft_s",
    "ALTER TABLE estimate ALTER ttft_s TYPE VARCHAR",
    "ALTER TABLE points DROP COLUMN axes",
    "ALTER TABLE studies ADD COLUMN more INT",
    "DROP TABLE sources",
    "DROP TABLE sources; CREATE VIEW sources AS SELECT 'a' AS id, '{}' AS document",
    "DROP TABLE sources; CREATE TABLE sources (id VARCHAR, document VARCHAR AS (id || 'x'))",
]
#: Still a store: another number in a figure, a name of a terminal's colours, more answers than points.
STRANGE = [
    "UPDATE estimate SET ttft_s = 'inf', tpot_s = '-inf', energy_j_per_token = 'nan'",
    "UPDATE estimate SET ttft_s = NULL, fits = NULL",
    "UPDATE studies SET points = -5",
    "UPDATE estimate SET problem = chr(27) || '[31mred', status = chr(27) || '[31m'",
    "INSERT INTO estimate SELECT * FROM estimate",
    "DELETE FROM sources",
    "DELETE FROM estimate",
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one study."""
    place = tmp_path_factory.mktemp("filled")
    (place / "s.toml").write_text(STUDY)
    words = ["study", str(place / "s.toml"), "--quiet", "--executor", "serial", "--store", str(place / "a b.duckdb")]
    assert main(words) == 0
    return place / "a b.duckdb"


@pytest.mark.parametrize("sql", [*TAMPERED, *STRANGE])
def test_tampered_stores_end_in_one_line(
    sql: str, filled: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(filled, folder / "t.duckdb")
    with duckdb.connect("t.duckdb") as db:
        db.execute(sql)
    forms = ([], ["--json", "--csv", "r.csv", "--html", "r.html"])
    ends = [_ends([*REPORT, "t.duckdb", *form], capsys) for form in forms]
    ends += [_ends(["report", "--store", "t.duckdb"], capsys), _ends([*SWEEP, "t.duckdb", "--resume"], capsys)]
    assert {code for code, _ in ends} <= {0, 2}
    assert all("internal error" not in err and len(err) < 600 for _, err in ends)
    if sql in TAMPERED:
        assert any(code == 2 and "t.duckdb" in err for code, err in ends)
    with duckdb.connect("t.duckdb") as db:
        assert ("points",) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()


def test_a_damaged_store_is_not_busy_whatever_its_path(
    filled: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "lock").mkdir()
    good = bytearray(filled.read_bytes())
    good[4096:8192] = bytes(4096)
    (folder / "lock" / "lock.duckdb").write_bytes(good)
    code, err = _ends([*REPORT, "lock/lock.duckdb"], capsys)
    assert code == 2
    assert "another process" not in err


def test_a_store_reaches_no_other_file(filled: Path, folder: Path) -> None:
    """Neither by what is asked of it, nor by what it brought itself."""
    shutil.copy(filled, folder / "t.duckdb")
    with opened(folder / "t.duckdb", read_only=False) as db:
        for sql in (
            "SELECT * FROM read_text('s.toml')",
            "COPY (SELECT 1) TO 'x.csv'",
            "ATTACH 'y.duckdb'",
            "LOAD httpfs",
        ):
            with pytest.raises(duckdb.Error):
                db.execute(sql).fetchall()
    (folder / "out").mkdir()
    assert copied(folder / "t.duckdb", "SELECT 1", folder / "out" / "x.csv", "FORMAT csv") == 1
    with pytest.raises(InputError, match="disabled"):
        copied(folder / "t.duckdb", "SELECT * FROM read_text('s.toml')", folder / "out" / "y.csv", "FORMAT csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize(("beside", "code"), [(".wal", 2), (".lock", 1)])
def test_a_pipe_where_the_store_has_a_file_of_its_own(
    beside: str, code: int, filled: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(filled, folder / "t.duckdb")
    os.mkfifo(f"t.duckdb{beside}")
    found, err = _ends([*SWEEP, "t.duckdb", "--resume"], capsys)
    assert found == code
    assert "in the way" in err


def test_what_a_kill_left_while_the_store_was_made_is_no_obstacle(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store is made beside its place and moved there whole."""
    with duckdb.connect(".k.duckdb.new") as db:
        db.execute("CREATE TABLE about (form BIGINT)")
    (folder / ".k.duckdb.new.wal").write_bytes(b"half a log")
    (folder / "k.duckdb.wal").write_bytes(b"of a store that is gone")
    assert _ends([*SWEEP, "k.duckdb"], capsys) == (0, "")
    assert sorted(p.name for p in folder.iterdir()) == ["k.duckdb", "k.duckdb.lock", "s.toml"]


#: Sweeps with files of at most so many bytes.
FULL = """
import resource, signal, sys
from steelyard.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_full_disk_ends_with_one_line_and_the_sweep_goes_on(folder: Path) -> None:
    """While the store is made, and while answers are added."""
    (folder / "s.toml").write_text(STUDY.replace("1-4", "1-1500"))
    words = [*SWEEP, "f.duckdb", "--csv", "f.csv", "--resume"]
    for size in (5_000, 1_400_000):
        full = subprocess.run([sys.executable, "-c", FULL, str(size), *words], capture_output=True, text=True)
        assert full.returncode == 1, full.stderr
        assert full.stderr.startswith("error: cannot use the store '")
        assert full.stderr.count("\n") == 1
        assert "--resume" in full.stderr
        assert not list(folder.glob(".f.duckdb.new*"))  # nothing half made keeps the disk full
    assert main(words) == 0
    assert main([*SWEEP, "g.duckdb", "--csv", "g.csv"]) == 0
    assert (folder / "f.csv").read_bytes() == (folder / "g.csv").read_bytes()


def test_exported_text_is_no_formula(folder: Path) -> None:
    text = STUDY + '[[case]]\nname = "=1+1"\nisl = 100\n[[case]]\nname = "-5"\nisl = 200\n'
    (folder / "s.toml").write_text(text)
    assert main([*SWEEP, "c.duckdb", "--csv", "c.csv"]) == 0
    rows = (folder / "c.csv").read_text()
    assert ",'=1+1," in rows
    assert ",=1+1," not in rows
    assert ",-5," in rows
