"""``python -m tests.fuzz``: damaged data through every parser, resumable; failures are kept under ``build/fuzz``."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.judge import Failure, judged, limited
from tests.fuzz.mutate import mutant, smaller
from tests.fuzz.parsers import PARSERS, Parser

#: Where failures are kept.
OUT = Path("build") / "fuzz"
#: Mutants of one parser before the next has its turn.
ROUND = 20
#: Longest time spent on making one failure smaller, s.
SMALLER_S = 5.0


def content_of(name: str, seed: int, index: int, seeds: list[bytes]) -> bytes:
    """One mutant, the same for the same numbers; the first ones are the seeds themselves."""
    rng = random.Random(f"{seed}/{name}/{index}")
    if index < len(seeds):
        return seeds[index]
    return mutant(rng, rng.choice(seeds), PARSERS[name].form, seeds)


def tried(parser: Parser, content: bytes) -> Failure | None:
    """The verdict on one content, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:  # noqa: PTH112
        folder = Path(place)
        return _forked(parser, content, folder) if parser.forked else judged(parser.run, content, folder)


def _forked(parser: Parser, content: bytes, folder: Path) -> Failure | None:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        code = 0
        try:
            os.write(into, pickle.dumps(judged(parser.run, content, folder))[:60_000])
        except BaseException:
            code = 1
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Failure(f"signal {os.WTERMSIG(status)}", "", "the process was taken down")
    if not data:
        return Failure("no verdict", "", f"exit code {os.WEXITSTATUS(status)}")
    found: Failure | None = pickle.loads(data)
    return found


def minimised(parser: Parser, content: bytes, failure: Failure) -> bytes:
    """A smaller content with the same failure."""
    end, smallest = time.monotonic() + SMALLER_S, content
    again = failure.kind not in ("hang", "memory")
    while again:
        again = False
        for candidate in smaller(smallest, parser.form):
            if time.monotonic() > end:
                return smallest
            if candidate and len(candidate) < len(smallest):
                found = tried(parser, candidate)
                if found is not None and found.key == failure.key:
                    smallest, again = candidate, True
                    break
    return smallest


class Run:
    """Where each parser stands, kept in a file."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self.path, self.seed = path, seed
        self.done: dict[str, int] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            kept = json.loads(path.read_text())
            if kept["seed"] == seed:
                self.done, self.failures = kept["done"], kept["failures"]

    def keep(self) -> None:
        """Write the state."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(
                json.dumps({"seed": self.seed, "done": self.done, "failures": self.failures}, indent=1)
            )

    def fail(self, name: str, index: int, content: bytes, failure: Failure) -> None:
        """Keep the first of each failure, made smaller, and count the others."""
        key = f"{name}: {failure.key}"
        if key in self.failures:
            self.failures[key]["count"] += 1
            return
        small = minimised(PARSERS[name], content, failure)
        OUT.mkdir(parents=True, exist_ok=True)
        file = OUT / f"{name}--{len(self.failures):03d}-{failure.kind.replace(' ', '_')}.case"
        file.write_bytes(small)
        self.failures[key] = {"count": 1, "file": str(file), "index": index, "words": failure.words}
        print(f"\nFAIL {key}\n     {failure.words[:300]!r}\n     {small[:200]!r}")
        print(f"     python -m tests.fuzz --replay {file}", flush=True)


def main() -> int:
    """The command."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--per-parser", type=int, default=10_000, help="mutants of each parser")
    options.add_argument("--seed", type=int, default=0, help="decides every mutant")
    options.add_argument("--seconds", type=float, default=0.0, help="stop after so long (0: when all are done)")
    options.add_argument("--parser", action="append", default=[], help="only this one (may be repeated)")
    options.add_argument("--state", type=Path, help="file that keeps where it stands, to go on from there")
    options.add_argument("--index", type=int, help="only this mutant of the one parser, with its traceback")
    options.add_argument("--replay", type=Path, help="a kept failure, PARSER--WORDS.case, with its traceback")
    asked = options.parse_args()
    unknown = [n for n in asked.parser if n not in PARSERS]
    if unknown:
        options.error(f"no parser {unknown[0]!r}; known: {', '.join(PARSERS)}")
    if asked.replay:
        return _again(asked.replay.name.partition("--")[0], asked.replay.read_bytes())
    if asked.index is not None:
        name = asked.parser[0]
        return _again(name, content_of(name, asked.seed, asked.index, PARSERS[name].seeds()))
    limited()
    return _campaign(asked.parser or list(PARSERS), asked)


def _again(name: str, content: bytes) -> int:
    print(content[:2000].decode("utf-8", "replace"))
    found = tried(PARSERS[name], content)
    print(found or "answered, or refused in good order")
    if found is not None:
        with tempfile.TemporaryDirectory() as place:
            PARSERS[name].run(content, Path(place))
    return int(found is not None)


def _campaign(names: list[str], asked: argparse.Namespace) -> int:
    began, run = time.monotonic(), Run(asked.state, asked.seed)
    wanted = {n: max(1, int(asked.per_parser * PARSERS[n].share)) for n in names}
    seeds: dict[str, list[bytes]] = {}
    spent = dict.fromkeys(names, 0.0)
    told = 0.0
    while left := [n for n in names if run.done.get(n, 0) < wanted[n]]:
        for name in left:
            if name not in seeds:
                seeds[name] = PARSERS[name].seeds()
            first = run.done.get(name, 0)
            at = time.monotonic()
            for index in range(first, min(first + ROUND, wanted[name])):
                if asked.seconds and time.monotonic() - began > asked.seconds:
                    break
                content = content_of(name, asked.seed, index, seeds[name])
                failure = tried(PARSERS[name], content)
                run.done[name] = index + 1
                if failure is not None:
                    run.fail(name, index, content, failure)
            spent[name] += time.monotonic() - at
        run.keep()
        total = sum(run.done.get(n, 0) for n in names)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{total:,} of {sum(wanted.values()):,} mutants, {len(run.failures)} failures", file=sys.stderr)
        if asked.seconds and time.monotonic() - began > asked.seconds:
            break
    for name in names:
        done = run.done.get(name, 0)
        failed = sum(k.startswith(f"{name}: ") for k in run.failures)
        print(f"{name:22} {done:7,} of {wanted[name]:7,}  {failed:3} failures  {spent[name]:7.1f} s")
    ours = {k: v for k, v in run.failures.items() if k.partition(": ")[0] in names}
    for key, entry in ours.items():
        print(f"{entry['count']:6,} x {key}: {entry['words'][:160]!r}  {entry['file']}")
    print(f"{sum(run.done.get(n, 0) for n in names):,} mutants, {len(ours)} failures")
    return int(bool(ours))


if __name__ == "__main__":
    sys.exit(main())
