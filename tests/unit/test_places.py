"""Any place to run: no home, another user's home, a cache that is full, damaged, somebody else's or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelyard import folders
from steelyard.cost import jit
from steelyard.errors import InputError

kept_code = pytest.importorskip("steelyard.cost.kept_code", exc_type=ImportError)

pytestmark = pytest.mark.skipif(not jit.compiled_here(), reason="nothing is compiled here")

#: The question of the runs without compiled code, and the words that run the command line.
QUESTION = [
    "simulate",
    "llama-3.1-8b",
    "--on",
    "h100_sxm",
    "--rate",
    "4/s",
    "--requests",
    "6",
    "--isl",
    "64",
    "--osl",
    "4",
]
COMMAND = "import sys; sys.modules['numba'] = None; from steelyard.cli.main import run; run()"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Folders are looked for anew, before and after."""
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "STEELYARD_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
    places = (folders.catalogue_folders, kept_code.place)
    for each in places:
        each.cache_clear()
    yield
    for each in places:
        each.cache_clear()


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a passwd entry and without HOME."""
    import pwd

    def unknown(_uid: int) -> Any:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.skipif(sys.platform == "win32", reason="homes of POSIX")
@pytest.mark.parametrize("named", [None, "", "relative/home"])
def test_no_home_is_no_folder(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody(monkeypatch)
    monkeypatch.delenv("USERPROFILE", raising=False)
    if named is not None:
        monkeypatch.setenv("HOME", named)
    assert folders.home() is None
    assert folders.user_folder() is None
    assert folders.cache_folder() is None
    assert folders.catalogue_folders()[0].name == "catalogue"
    with pytest.raises(InputError, match="no home folder"):
        folders.folder_to_write()
    assert folders.folder_to_write("there") == Path("there")


def test_a_home_that_may_not_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "steelyard" / "catalogue"
    (own / "machines").mkdir(parents=True)
    monkeypatch.setattr(folders, "user_folder", lambda: own)
    assert own in folders.catalogue_folders()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "machines" and access(path, mode))
    folders.catalogue_folders.cache_clear()
    assert own not in folders.catalogue_folders()
    folders.catalogue_folders.cache_clear()
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(own))
    with pytest.raises(InputError, match="cannot be read"):
        folders.catalogue_folders()


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    found = kept_code.place()
    assert found.folder is None
    assert str(tmp_path / "file") in found.reason


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users of POSIX")
def test_code_in_folders_of_others_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(kept_code.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = tmp_path / "steelyard" / "numba"
    assert kept_code.place().folder.parent == own
    kept_code.place.cache_clear()
    own.chmod(0o777)  # anybody could have written to it: code is kept among the temporary files instead
    assert kept_code.place().folder.parent == temporary / f"steelyard-{os.getuid()}"
    kept_code.place.cache_clear()
    own.chmod(0o700)
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    assert kept_code.place().folder.parent.parent == temporary


def test_the_cache_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for n in range(kept_code.KEPT + 5):
        (tmp_path / "steelyard" / f"state{n}").mkdir(parents=True)
        os.utime(tmp_path / "steelyard" / f"state{n}", (n, n))
    folder = kept_code.place().folder
    left = {p.name for p in (tmp_path / "steelyard").iterdir()}
    assert left == {folder.name, *(f"state{n}" for n in range(5, kept_code.KEPT + 5))}


def tripled(x: Any) -> Any:
    return x * 3


def compiled(times: int = 1) -> int:
    """A function compiled or read from the disk by so many processes' worth of dispatchers; how often it was read."""
    read = 0
    for _ in range(times):
        function: Any = jit.njit(tripled)
        assert function(4) == 12
        read += sum(function.stats.cache_hits.values())
    return read


@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_damaged_code_is_compiled_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert compiled(2) == 1
    (file,) = tmp_path.rglob(kind)
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"garbage", whole[:middle], flipped):
        file.write_bytes(content)
        assert compiled(2) == 1  # not from what is damaged; then from what was written in its place


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kept_code.KeptFile, "_write", full)
    assert compiled(2) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "No space left on device" in said
    assert not list(tmp_path.rglob("*.nb?"))


def test_a_read_only_cache_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert compiled() == 0
    written = kept_code.Place(kept_code.place().folder, "read-only file system")
    monkeypatch.setattr(kept_code, "place", lambda: written)
    assert compiled() == 1
    assert capsys.readouterr().err == ""


def test_a_lock_that_is_held_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(kept_code, "PATIENCE_S", 0.05)
    with (tmp_path / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with kept_code._alone(tmp_path):
            (tmp_path / "written").touch()
    assert (tmp_path / "written").exists()


@pytest.mark.parametrize("options", [[], ["-I", "-OO"]])
def test_without_numba_python_plays(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *options, "-B", "-c", COMMAND, *QUESTION], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "steelyard[fast]" in done.stderr
    assert "TTFT" in done.stdout


def test_without_numba_a_plan_says_at_once_what_to_install() -> None:
    words = ["plan", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "2/s", "--isl", "200", "--osl", "20"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", COMMAND, *words, "--ttft", "p99:2s"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'steelyard[fast]'" in done.stderr


@pytest.mark.parametrize("words", ["estimate ~nobody-is-called-so/x --on h100_sxm", "simulate --help"])
def test_names_of_homes_and_help_without_docstrings(words: str) -> None:
    command = "from steelyard.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-OO", "-B", "-c", command, *words.split()], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == (0 if "--help" in words else 2), done.stderr
    assert "Traceback" not in done.stderr
