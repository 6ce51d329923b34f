"""What may lie at the path of a store: every kind ends in one line, and a foreign database is not written to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from steelyard.cli.main import main

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
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def refused(self: Path, *more: object, **options: object) -> object:
        if self.name.endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return opened(self, *more, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refused)
    code, err = _ends([*SWEEP, "x.duckdb"], capsys)
    assert code == 2
    assert "cannot write" in err


def test_exported_text_is_no_formula(folder: Path) -> None:
    text = STUDY + '[[case]]\nname = "=1+1"\nisl = 100\n[[case]]\nname = "-5"\nisl = 200\n'
    (folder / "s.toml").write_text(text)
    assert main([*SWEEP, "c.duckdb", "--csv", "c.csv"]) == 0
    rows = (folder / "c.csv").read_text()
    assert ",'=1+1," in rows
    assert ",=1+1," not in rows
    assert ",-5," in rows
