"""Readers of whole questions: studies, plans, stores, the words of each verb and commands."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import steelyard as sy
from steelyard.errors import InputError
from tests.fuzz import corpus, files
from tests.fuzz.judge import Wrong
from tests.fuzz.mutate import PYTHON, write

# ---- studies, plans, stores ----------------------------------------------------------------------------------------


def study(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.studies.points import expand_study
    from steelyard.studies.study import read_study

    expand_study(read_study(files.written(folder, f"s{suffix}", content)))


@cache
def plans() -> list[bytes]:
    from steelyard.deployment.plan_file import deployment_text
    from steelyard.scenario.scenario import Scenario

    found = []
    for words in ({}, {"disaggregate": "1P:tp1,1D:tp1", "on": "h100_sxm:2"}):
        given = {"on": "h100_sxm", "rate": "4/s", "requests": 8, "isl": 64, "osl": 4, **words}
        scenario = Scenario.of("simulate", "llama-3.2-1b", **given)
        assert scenario.deployment is not None
        found.append(
            deployment_text(
                scenario.deployment,
                traffic={
                    "rate": 4.0,
                    "isl": "64",
                    "osl": "uniform:2-6",
                    "requests": 8,
                    "seed": 1,
                    "arrivals": "constant",
                },
                promise={"ttft": "p99:1s", "tpot": "p95:50ms"},
                simulation={"rate_per_s": 4.0, "requests": 8, "seed": 1, "skew": 0.0},
                expected={"ttft_s": {"mean": 0.1, "p99": 0.2}},
            ).encode()
        )
    return found


def plan(content: bytes, folder: Path) -> None:
    from steelyard.deployment.plan_file import read_deployment
    from steelyard.report import plan_replay
    from steelyard.simulation.replay_plan import replay_plan

    asked = read_deployment(files.written(folder, "plan.toml", content))
    found = replay_plan(asked)
    json.dumps(plan_replay.to_dict(asked, found), allow_nan=False)
    plan_replay.text(asked, found, 100)


@cache
def stores() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "s.duckdb"
        sy.study(corpus.STUDIES[0], store=path, executor="serial")
        return [path.read_bytes()]


def store(content: bytes, folder: Path) -> None:
    from steelyard.studies.store_results import Store

    store = Store(files.written(folder, "s.duckdb", content))
    for record in store.studies():
        store.rows(store.study(record.name))


# ---- words ---------------------------------------------------------------------------------------------------------


def _made(tree: Any) -> Any:
    """Words with the Python values that they name."""
    if isinstance(tree, dict):
        if set(tree) == {"$python"} and str(tree["$python"]) in PYTHON:
            return PYTHON[str(tree["$python"])]()
        return {k: _made(v) for k, v in tree.items()}
    return [_made(v) for v in tree] if isinstance(tree, list) else tree


def words(verb: str, content: bytes, folder: Path) -> None:
    words = _made(json.loads(content))
    if not isinstance(words, dict):
        return
    if verb == "estimate":
        files.finite(sy.estimate(**words))
    elif verb == "simulate":
        scenario = sy.Scenario.of("simulate", **words)
        played = len(content) % 4 == 0  # one in four: the others end at the question
        if played and scenario.trace is not None and len(scenario.trace) <= 64 and int(scenario.trace.osl.max()) <= 64:
            json.dumps(sy.simulate(scenario).to_dict(), allow_nan=False)
    else:
        from steelyard.search.api import read_question

        read_question(words)


def spec(content: bytes, folder: Path) -> None:
    """A question with one field of its own."""
    tree = _made(json.loads(content))
    if not (isinstance(tree, list) and len(tree) == 3 and all(isinstance(x, str) for x in tree[:2])):
        return
    verb, name, value = tree
    if verb not in corpus.WORDS:
        return
    given = {**corpus.asked(verb), name: value}
    if verb == "plan":
        from steelyard.search.api import read_question

        read_question(given)
    else:
        sy.Scenario.of(verb, **given)


def planned(content: bytes, folder: Path) -> None:
    words = _made(json.loads(content))
    if isinstance(words, dict):
        json.dumps(sy.plan(**words).to_dict(), allow_nan=False)


def argv(content: bytes, folder: Path) -> None:
    from steelyard.cli.main import main

    tokens = json.loads(content)
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        return
    if "--here" in tokens or any(t.startswith("--out=") or t in ("/dev/null", "--install-completion") for t in tokens):
        return
    _beside(folder)
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code: Any = main(tokens)
            except SystemExit as error:
                code = error.code
    finally:
        os.chdir(before)
    if code not in (0, 2, 3):
        raise Wrong(f"exit code {code}: {err.getvalue()[:300]}")
    if code == 2 and not err.getvalue().strip():
        raise Wrong("exit code 2 and nothing said")
    for line in err.getvalue().splitlines():
        if code == 2 and line.strip():
            raise_if_unclear(line)


def raise_if_unclear(line: str) -> None:
    """Let a line of stderr be judged as the message of an error."""
    from tests.fuzz.judge import _message

    failure = _message(InputError(line))
    if failure is not None or len(line) > 1600 or "\x1b" in line:
        raise Wrong(f"unclear line: {ascii(line)[:300]}")


def _beside(folder: Path) -> None:
    """The files that commands name."""
    if (folder / "study.toml").exists():
        return
    files.written(folder, "config.json", json.dumps(corpus.CONFIG).encode())
    files.written(folder, "machine.toml", corpus.machines()[0])
    files.written(folder, "trace.csv", corpus.TRACES["vidur"])
    files.written(folder, "plan.toml", plans()[0])
    files.written(folder, "log.json", json.dumps(corpus.LOGS["vllm"]).encode())
    files.written(folder, "study.toml", write(corpus.STUDIES[0], "toml"))
    files.written(folder, "store.duckdb", stores()[0])
    files.written(folder, "samples.csv", corpus.SAMPLES[0])
