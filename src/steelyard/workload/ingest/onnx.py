"""An ONNX file as a graph of tensors.

The file is a stranger's and its parsers are programs in C++ of many lines, so it is read in a process of its own, with
limits on memory, time and size, that is given the open file and no path; data that lies in other files is never read.
What comes back is a graph as JSON, checked as one from a file is.

Limits: a file of :data:`MOST_BYTES`, 64 MiB of it beside the data of weights, 200,000 nodes with loops unrolled,
:data:`MOST_MEMORY` bytes and :data:`MOST_S` seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from steelyard.documents import open_file
from steelyard.errors import InputError, Problem, SteelyardError, raise_all
from steelyard.workload.ingest.kept_graph import data_of, graph_of
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["MOST_BYTES", "MOST_MEMORY", "MOST_S", "read_onnx"]

#: Largest file, bytes: more than protobuf can hold. Most memory of the process that reads it, and its time.
MOST_BYTES, MOST_MEMORY, MOST_S = 2**31, 2 << 30, 30.0
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; " + (
    "from steelyard.workload.ingest.onnx import _main; _main()"
)


def read_onnx(path: str | Path, sets: Mapping[str, int] | None = None) -> TensorGraph:
    """The graph of an ONNX file.

    The first extent of its inputs stays open as ``batch`` where it is open in the file; every other open size must be
    in ``sets``. Ops whose inputs are the same in every run are left out, as runtimes do them once.

    Args:
        path: the file; what it keeps in other files is not needed.
        sets: open sizes by name, ``{"tokens": 128}``; ``batch``: the usual one.

    Raises:
        InputError: one line that says what is wrong: the file, its size, a rule of ONNX it breaks, or a size that is
            open and the flag that sets it; or the ``onnx`` package is not installed.
    """
    name = Path(path).name
    with open_file(path, MOST_BYTES, "model") as stream:
        if find_spec("onnx") is None:
            message = "reading ONNX files needs the onnx package: pip install 'steelyard[onnx]'"
            raise InputError(message, field="model")
        answer = _asked(stream, name, dict(sets or {}))
    wrong = [Problem(f, m) for f, m in answer.get("problems", ())]
    raise_all(wrong)
    return replace(graph_of(answer["graph"], name), name=Path(name).stem[:100])


def _asked(stream: BinaryIO, name: str, sets: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process that reads the stream as its standard input."""
    home = str(Path(__file__).parents[3])
    asked = json.dumps({"path": [home, *sys.path], "name": name, "sets": sets}, default=str)
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own program, and data
            [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), "-c", _CHILD, asked],
            stdin=stream,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=MOST_S,
            check=False,
            env={**os.environ, **threads},
        )
    except OSError as error:
        raise SteelyardError(f"cannot start a process to read {name}: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: was not read within {MOST_S:.0f} s", field="model") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except (ValueError, RecursionError):
        answer = {}
    if not answer:
        why = f"of more than {MOST_MEMORY >> 30} GiB, or what is in it" if done.returncode else "of what is in it"
        raise InputError(
            f"{name}: cannot be read as ONNX (the process that reads it ended because {why})", field="model"
        )
    return answer


def _main() -> None:
    """What the process does: read its standard input and write a graph, or what is wrong, as JSON."""
    asked = json.loads(sys.argv[1])
    _limited()
    name = asked["name"]
    try:
        answer: dict[str, Any] = {"graph": _graph(sys.stdin.buffer, name, asked["sets"])}
    except InputError as error:
        answer = {"problems": [_problem(p, name) for p in error.problems]}
    except (MemoryError, RecursionError):
        answer = {"problems": [("model", f"{name}: needs more than {MOST_MEMORY >> 30} GiB to be read")]}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


def _problem(problem: Problem, name: str) -> tuple[str, str]:
    """A problem with its field: a size the user sets, or else the file and the node in it."""
    if problem.field.startswith("set"):
        return problem.field, f"{name}: {problem.message}"
    return "model", f"{name}: {problem.field + ': ' if problem.field else ''}{problem.message}"


def _graph(stream: BinaryIO, name: str, sets: dict[str, int]) -> Any:
    from steelyard.workload.ingest.onnx_model import graph_of_model
    from steelyard.workload.ingest.onnx_slim import slim

    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return data_of(graph_of_model(slim(stream, size), name, sets))


def _limited() -> None:
    """Limits on memory and time of a processor, where the system has them."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, int(MOST_S) + 5)):
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most, hard) if hard == resource.RLIM_INFINITY or hard >= most else (hard, hard))
        except (ValueError, OSError):
            continue
