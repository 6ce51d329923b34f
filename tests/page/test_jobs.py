"""Long runs: progress as it comes, cancelling, other tabs, what is kept when the server is killed.

The screen ``slow`` is of these tests: Python reads ``sitecustomize`` in the server and in its workers.
"""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.server import Server, serving

SITE = """
import pathlib
import steelyard.page.screen as screen
import steelyard.page.screens as found
screen.SCREENS = (*screen.SCREENS, "slow")
found.__path__.append(str(pathlib.Path(__file__).parent))
"""
SLOW = """
import sys, time
from steelyard.errors import InputError
from steelyard.page.screen import Screen, Shown


def ask(words, tell):
    print("printed by a library")
    kind = words.get("kind", "steps")
    if kind == "wrong":
        raise InputError("expected another", field="kind")
    if kind == "dies":
        import os
        os._exit(9)
    if kind == "breaks":
        raise ZeroDivisionError("inner words")
    for i in range(int(words.get("steps", "3"))):
        tell(f"step {i + 1}", (i + 1) / 10)
        time.sleep(0.15)
    return Shown({"schema": "slow/1", "steps": words.get("steps", "3")}, [{"a": 1}], view={"title": "t"})


SCREEN = Screen(name="slow", title="Slow", says="Waits.", ask=ask, long=True, template="parts.html",
                parameters={"steps": "how many", "kind": "how it ends"})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    (tmp_path / "site" / "slow.py").write_text(SLOW)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with started(folder) as found:
        yield found


def started(folder: Path) -> Any:
    """A server with the slow screen, whose answers are kept in the folder."""
    env = {"PYTHONPATH": str(folder / "site")}
    return serving(folder, "--port", "0", "--store", str(folder / "store"), env=env)


def events(server: Server, job: str) -> list[dict[str, Any]]:
    """Every state that a run's stream tells, to its end."""
    wire = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    wire.request("GET", f"/jobs/{job}/events")
    found = wire.getresponse()
    assert found.headers["content-type"].startswith("text/event-stream")
    text = found.read().decode()
    wire.close()
    blocks = [b.split("\n") for b in text.strip().split("\n\n") if b.startswith("event")]
    states = [json.loads(b[1].removeprefix("data: ")) for b in blocks]
    assert [b[0].removeprefix("event: ") for b in blocks] == [s["state"] for s in states]
    return states


def start(server: Server, query: str) -> str:
    """Start a run; its key."""
    found = server.ask(f"/jobs/slow?{query}", "POST")
    assert found.status == 202, found.text
    return str(found.data["job"])


def test_progress_comes_as_it_is_made_and_the_answer_is_kept(server: Server) -> None:
    states = events(server, start(server, "steps=4"))
    words = [s["words"] for s in states]
    assert [w for w in words if w.startswith("step")] == ["step 1", "step 2", "step 3", "step 4"]
    assert states[-1]["state"] == "done" and states[-1]["share"] == 1.0
    shares = [s["share"] for s in states]
    assert shares == sorted(shares)
    assert server.ask("/api/slow?steps=4").data == {"schema": "slow/1", "steps": "4"}
    assert server.ask("/api/slow.csv?steps=4").text == "a\n1\n"


def test_the_same_question_is_one_run(server: Server) -> None:
    first = start(server, "steps=8")
    assert start(server, "steps=8") == first
    assert start(server, "steps=9") != first


def test_a_run_is_cancelled_and_its_process_gone(server: Server) -> None:
    job = start(server, "steps=200")
    time.sleep(1.5)
    assert server.ask(f"/jobs/{job}", "DELETE").data["state"] == "cancelled"
    assert events(server, job)[-1]["state"] == "cancelled"
    assert not _workers(server)
    assert start(server, "steps=200") == job  # and asked anew it runs again
    assert server.ask(f"/jobs/{job}", "DELETE").status == 200


def test_a_run_that_is_cancelled_while_it_starts_does_not_go_on(server: Server) -> None:
    for n in range(3):
        job = start(server, f"steps={200 + n}")
        assert server.ask(f"/jobs/{job}", "DELETE").data["state"] == "cancelled"
    until = time.monotonic() + 5
    while _workers(server) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _workers(server)


def test_a_column_says_what_is_wrong_with_itself(server: Server) -> None:
    """Two runs side by side of which the second was refused."""
    two = "/simulate?model=llama-3.1-8b&on=l40s&rate=4/s&isl=100&osl=10&requests=5&2.on=nothing"
    job = str(server.ask(two.replace("/simulate?", "/jobs/simulate?") + "&_column=2", "POST").data["job"])
    assert events(server, job)[-1]["state"] == "failed"
    first, second = server.ask(two).text.split('<article class="answer"')[1:]
    assert "unknown machine" in second and "unknown machine" not in first


def test_what_goes_wrong_is_told_without_internals(server: Server) -> None:
    wrong = events(server, start(server, "kind=wrong"))[-1]
    assert wrong["problems"] == [{"field": "kind", "message": "expected another", "nearest": []}]
    assert server.ask("/api/slow?kind=wrong").problems == {"kind": "expected another"}
    for kind in ("dies", "breaks"):
        last = events(server, start(server, f"kind={kind}"))[-1]
        assert last["state"] == "failed" and "without an answer" in last["words"]
        assert "inner words" not in json.dumps(last)
    assert server.ask("/jobs/slow?model=/etc/passwd", "POST").status == 422
    assert server.ask("/jobs/estimate?model=a", "POST").status == 404
    assert server.ask("/jobs/0123456789abcdef/events").status == 404


def test_another_tab_is_not_blocked(server: Server) -> None:
    server.ask("/api/estimate?model=llama-3.1-8b&on=h100_sxm")
    jobs = [start(server, f"steps={n}") for n in (200, 201, 202)]
    time.sleep(1.0)
    running = [server.ask(f"/api/estimate?model=llama-3.1-8b&on=h100_sxm&batch={n}").status for n in range(2, 6)]
    assert running == [200] * 4
    assert len(_workers(server)) == 2  # the third waits for its turn
    for job in jobs:
        server.ask(f"/jobs/{job}", "DELETE")


def test_so_many_may_wait(server: Server) -> None:
    for n in range(16):
        start(server, f"steps={1000 + n}")
    refused = server.ask("/jobs/slow?steps=999", "POST")
    assert refused.status == 422 and "wait already" in refused.problems["jobs"]


def test_killing_the_server_loses_no_stored_answer(folder: Path) -> None:
    with started(folder) as server:
        events(server, start(server, "steps=2"))
        start(server, "steps=300")
        time.sleep(1.0)
        workers = _workers(server)
        assert workers
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and _runs(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in workers if _runs(pid)]
    with started(folder) as server:
        assert server.ask("/api/slow?steps=2").data["steps"] == "2"
        assert server.ask("/slow?steps=2").status == 200
        (kept,) = (folder / "store").glob("*.json")
        kept.write_bytes(kept.read_bytes()[:50])
        page = server.ask("/slow?steps=2").text
        assert "set aside" in page and len(list((folder / "store").glob("*.damaged*"))) == 1
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(server.ask("/api/slow?steps=2").data))
        asking.start()
        asking.join(timeout=30)
        assert answers == [{"schema": "slow/1", "steps": "2"}]


def _workers(server: Server) -> list[int]:
    """Processes of long runs that this server started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _runs(int(entry.name)):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == server.process.pid:
                found.append(int(entry.name))
    return found


def _runs(pid: int) -> bool:
    """Whether a process is one of a long run and not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return b"steelyard.page.worker" in Path(f"/proc/{pid}/cmdline").read_bytes() and state != "Z"
    except OSError:
        return False
