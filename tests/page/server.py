"""A server of the page for tests: started as a user starts it, asked over its port."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """As text."""
        return self.body.decode()

    @property
    def data(self) -> Any:
        """As JSON."""
        return json.loads(self.body)

    @property
    def problems(self) -> dict[str, str]:
        """What is said to be wrong, by field."""
        assert self.data["schema"] == "steelyard.problems/1"
        return {p["field"]: p["message"] for p in self.data["problems"]}


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    port: int

    def ask(
        self, path: str, method: str = "GET", *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, whose path is sent as it is."""
        wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            wire.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"Host": f"localhost:{self.port}", **(headers or {})}
            if body is not None and "Transfer-Encoding" not in sent:
                sent.setdefault("Content-Length", str(len(body)))
            for name, value in sent.items():
                wire.putheader(name, value)
            wire.endheaders(body)
            found = wire.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            wire.close()

    def stop(self) -> tuple[int, str]:
        """End it as Ctrl-C does; its exit code and what it wrote as errors."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@contextmanager
def serving(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server with these options; the folder is where it is started."""
    words = ["serve", "--no-browser", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "steelyard", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://[^ ]*:(\d+)/", said)
        if found is None:
            process.kill()
            raise AssertionError(f"it did not start: {said} {process.communicate()[1]}")
        yield Server(process, f"http://localhost:{found[1]}", int(found[1]))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
