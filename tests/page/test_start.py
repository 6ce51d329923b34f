"""How the server starts and ends: ports, folders, a place with nothing, an export that opens from disk."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steelyard.cli.main import main
from steelyard.page.export import export_pages
from steelyard.page.question import read_question
from steelyard.page.screen import Shown, screen
from steelyard.page.start import is_loopback, listening
from steelyard.page.store import Store
from tests.page.server import serving


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--store", str(tmp_path / "s")) as server:
        assert server.ask("/api/names?kind=engine").status == 200
        assert server.stop() == (0, "")
    assert not [p for p in tmp_path.iterdir() if p.name != "s"]


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with serving(tmp_path, "--port", str(taken)) as server:
            assert server.port != taken
            assert f"port {taken} is taken" in server.stop()[1]


@pytest.mark.parametrize(
    ("options", "field"),
    [(["--port", "99999"], "port"), (["--host", "no.such.host."], "host"), (["--store", __file__], "store")],
)
def test_what_cannot_be_listened_on(options: list[str], field: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--no-browser", *options]) == 2
    assert f"error: --{field}: " in capsys.readouterr().err


def test_loopback_is_told_from_the_rest() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("10.1.2.3") and not is_loopback("example.com")
    with listening("127.0.0.1", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_others_are_warned_of(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--host", "0.0.0.0") as server:
        assert server.ask("/api/names?kind=engine", headers={"Host": "10.9.8.7:1"}).status == 200
        assert server.ask("/api/names?kind=engine", headers={"Host": "evil.example"}).status == 421
        assert "there is no password" in server.stop()[1]


def test_a_place_with_no_home_and_nothing_to_write(tmp_path: Path) -> None:
    """No HOME, no folder for temporary files: it answers, and takes no files."""
    code = (
        "import sys, tempfile\n"
        "def none(*a, **k): raise OSError(30, 'read-only')\n"
        "tempfile.TemporaryDirectory = none\n"
        "from steelyard.cli import main\n"
        "sys.exit(main.main(['serve', '--no-browser', '--port', '0']))\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env
    )
    try:
        from tests.page.server import Server

        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].partition("/")[0])
        server = Server(process, "", port)
        assert server.ask("/api/estimate?model=llama-3.1-8b&on=h100_sxm").status == 200
        refused = server.ask("/drop?name=a.json", "POST", body=b"{}")
        assert refused.status == 422 and "no folder" in refused.problems["file"]
        assert server.stop()[0] in (0, 130)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_an_export_opens_from_disk(tmp_path: Path) -> None:
    address = "http://localhost:8642/estimate?model=llama-3.1-8b&on=a100_sxm&2.on=l40s"
    count = export_pages(tmp_path / "out", [address])
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert len(files) == count
    for page in (tmp_path / "out").glob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)  # files that launch it
        assert 'href="/' not in text and 'src="/' not in text and "http" not in text.replace("http://www.w3.org", "")
    two = json.loads(next((tmp_path / "out").glob("estimate-*-2.json")).read_text(encoding="utf-8"))
    assert two["machine"]["name"] == "l40s"
    for wrong in ("no such address", "estimate?model=llama-3.1-8b&on=a100_sxm&2.on=no-such-machine"):
        assert main(["serve", "--export", str(tmp_path / "x"), "--page", wrong]) == 2
    assert not (tmp_path / "x").exists()
    assert main(["serve", "--page", "estimate"]) == 2


def test_a_damaged_answer_is_set_aside_and_said(tmp_path: Path) -> None:
    store, question = Store(tmp_path), read_question(screen("estimate"), "model=a&on=b")
    shown = Shown({"schema": "x"}, [{"a": 1}], [], {"title": "t"})
    store.put(question, shown)
    assert store.get(question) == shown and store.notices == []
    (path,) = tmp_path.glob("*.json")
    whole = path.read_bytes()
    damages = (whole[:40], whole[:-5], whole.replace(b'"a": 1', b'"a": 2'), b"", b"\xff\xfe", b"{}\n{}")
    for i, damage in enumerate(damages):
        path.write_bytes(damage)
        fresh = Store(tmp_path)
        assert fresh.get(question) is None
        assert len(fresh.notices) == 1 and "set aside" in fresh.notices[0]
        aside = sorted(tmp_path.glob("*.damaged*"))
        assert len(aside) == i + 1 and damage in {p.read_bytes() for p in aside}
    store.put(question, shown)
    assert Store(tmp_path).get(question) == shown


def test_answers_are_kept_in_memory_where_nothing_can_be_written(tmp_path: Path) -> None:
    question, shown = read_question(screen("estimate"), "model=a&on=b"), Shown({"schema": "x"})
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "store"):
        store = Store(folder)
        store.put(question, shown)
        assert store.get(question) == shown


def test_the_first_questions_may_come_at_once(tmp_path: Path) -> None:
    """Modules are imported when they are first needed: never by two threads, which would see them half made."""
    paths = (
        "/estimate?model=llama-3.1-8b&on=h100_sxm",
        "/estimate?model=resnet50&on=l40s",
        "/api/names?kind=model&q=llama",
        "/catalogue?kind=techniques",
        "/api/estimate?model=deepseek-v3&on=h200_sxm:8",
        "/catalogue?kind=machines&name=h100_sxm",
        "/machine?name=x",
        "/api/openapi.json",
    )
    with serving(tmp_path, "--port", "0") as server:
        with ThreadPoolExecutor(len(paths)) as pool:
            found = list(pool.map(lambda path: server.ask(path).status, paths))
        assert found == [200] * len(paths)
        assert server.stop() == (0, "")
