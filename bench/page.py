"""The local page as a server: its start, a question asked again, fifty users at once, memory over many requests.

``python -m bench.page [REQUESTS]`` runs it alone.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["run"]

#: Questions of the sliders; users at once, s a user looks before asking again (mean), s of the load, requests in all.
ASKED, USERS, LOOKS_S, LOAD_S, REQUESTS = 150, 50, 4.0, 30.0, 10_000
MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "resnet50", "mixtral-8x7b")
MACHINES = ("h100_sxm:8", "b200_sxm:8", "mi300x:8")


def run(requests: int = REQUESTS) -> dict[str, dict[str, object]]:
    """Start, latencies, errors and memory of one server."""
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as (process, port, begun):
        _ask(port, "/api/names?kind=engine")
        first = time.perf_counter() - begun
        _ask(port, "/estimate?model=llama-3.1-8b&on=h100_sxm&batch=8")
        usable = time.perf_counter() - begun
        before = _cpu_s(process.pid)
        again = [
            _ask(port, f"/estimate?model=llama-3.1-8b&on=h100_sxm&batch={8 + i}&isl={1000 + i}")[1]
            for i in range(ASKED)
        ]
        each = (_cpu_s(process.pid) - before) / ASKED
        users, errors = _load(port)
        early = _requests(process.pid, port, requests // 10)
        late = _requests(process.pid, port, requests - requests // 10)
    return {
        "page: first answer after the start": {"value": first, "unit": "s", "target": "0.5"},
        "page: Estimate shown after the start": {"value": usable, "unit": "s", "target": "1"},
        "page: asked again, median": {"value": 1e3 * _quantile(again, 0.5), "unit": "ms"},
        "page: asked again, p95": {"value": 1e3 * _quantile(again, 0.95), "unit": "ms", "target": "100"},
        "page: asked again, CPU": {"value": 1e3 * each, "unit": "ms"},
        f"page: {USERS} users, p95": {"value": 1e3 * _quantile(users, 0.95), "unit": "ms", "target": "300"},
        f"page: {USERS} users, requests": {"value": len(users), "unit": "requests"},
        f"page: {USERS} users, errors": {"value": errors, "unit": "errors", "target": "0"},
        f"page: memory after {requests // 10:,} requests": {"value": early / 2**20, "unit": "MiB"},
        f"page: memory after {requests:,} requests": {"value": late / 2**20, "unit": "MiB", "target": "stable"},
    }


@contextmanager
def _server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, float]]:
    """A server on a free port: its process, the port, and when it was started."""
    command = [sys.executable, "-m", "steelyard", "serve", "--no-browser", "--port", "0", "--store", str(folder)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None
        yield process, int(found[1]), begun
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)


def _ask(port: int, path: str) -> tuple[int, float]:
    """Status and seconds of one request."""
    begun = time.perf_counter()
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        wire.request("GET", path)
        found = wire.getresponse()
        found.read()
        return found.status, time.perf_counter() - begun
    finally:
        wire.close()


def _load(port: int) -> tuple[list[float], int]:
    """Latencies and errors of users who look, move a slider, and ask again."""
    times: list[float] = []
    errors = [0]
    until = time.perf_counter() + LOAD_S

    def user(seed: int) -> None:
        draw = random.Random(seed)
        model, on = draw.choice(MODELS), draw.choice(MACHINES)
        while True:
            time.sleep(draw.expovariate(1 / LOOKS_S))
            if time.perf_counter() > until:
                return
            try:
                status, took = _ask(port, f"/estimate?model={model}&on={on}&batch={draw.randint(1, 512)}")
            except OSError:
                errors[0] += 1
                continue
            times.append(took)
            errors[0] += status != 200

    threads = [threading.Thread(target=user, args=(i,)) for i in range(USERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, errors[0]


def _requests(pid: int, port: int, count: int) -> float:
    """Bytes of memory after so many requests of every kind."""
    draw = random.Random(count)
    for _ in range(count):
        kind = draw.random()
        if kind < 0.15:
            path = f"/estimate?model={draw.choice(MODELS)}&on={draw.choice(MACHINES)}&batch={draw.randint(1, 10**6)}"
        elif kind < 0.5:
            path = f"/api/names?kind=model&q={draw.choice('abcdefghijklmnop')}"
        elif kind < 0.75:
            path = "/api/estimate?model=llama-3.1-8b&on=h100_sxm"
        else:
            path = draw.choice(("/api/estimate?model=nobody&on=h100_sxm", "/assets/page.css", "/nothing"))
        _ask(port, path)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _cpu_s(pid: int) -> float:
    """CPU time of a process, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


if __name__ == "__main__":
    for name, figure in run(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS).items():
        target = f"   (target {figure['target']})" if "target" in figure else ""
        print(f"{name:58s} {figure['value']:>14,.3f} {figure['unit']}{target}")
