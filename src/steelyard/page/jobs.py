"""Long runs: each in a process of its own that tells its progress, can be ended, and blocks nobody.

A simulation or a search holds the interpreter for seconds, so threads would make every other tab wait; a process
starts in about half a second and can be killed at any point. It ends with the server, whose pipe it reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from steelyard.errors import InputError, Problem, SteelyardError
from steelyard.page.answers import key_of, shown_from
from steelyard.page.question import Question
from steelyard.page.screen import Shown
from steelyard.page.store import Store

__all__ = ["Job", "Jobs"]

#: Runs that may wait or be under way at once, and finished ones that are remembered.
MAX_JOBS, REMEMBERED = 16, 64
#: Longest line of a process: an answer in JSON, bytes.
_MAX_LINE = 256 * 2**20
#: States in which a run stays.
_OVER = ("done", "failed", "cancelled")


class Job:
    """One run of a long screen."""

    def __init__(self, question: Question, key: str) -> None:
        self.question, self.key = question, key
        self._state, self._words, self._share = "waiting", "waiting for its turn", 0.0
        self._problems: Sequence[Mapping[str, str]] = ()
        self._changed = asyncio.Condition()
        self._version = 0
        self.task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.shown: Shown | None = None

    def state(self) -> dict[str, Any]:
        """What is known: ``state`` (waiting, running, done, failed, cancelled), ``words``, ``share``, ``problems``."""
        said = {"state": self._state, "words": self._words, "share": self._share}
        return {**said, "problems": list(self._problems), "query": self.question.query}

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self._state in _OVER

    async def states(self, alive_s: float) -> AsyncIterator[dict[str, Any] | None]:
        """Every state from now on, the last one too; None each time nothing has changed for ``alive_s``."""
        seen = -1
        while True:
            async with self._changed:
                try:
                    await asyncio.wait_for(self._after(seen), alive_s)
                except TimeoutError:
                    yield None
                    continue
                seen, found, over = self._version, self.state(), self.over
            yield found
            if over:
                return

    async def _after(self, version: int) -> None:
        """Wait for a later version; the condition is held."""
        while self._version == version:
            await self._changed.wait()

    async def result(self) -> Shown:
        """The answer, once it is there. Raises :class:`~steelyard.errors.SteelyardError`: there will be none."""
        async for _ in self.states(3600.0):
            pass
        if self.shown is not None:
            return self.shown
        problems = [Problem(p["field"], p["message"]) for p in self._problems]
        if problems:
            raise InputError(problems[0].message, field=problems[0].field, problems=problems)
        raise SteelyardError(self._words)

    async def cancel(self) -> None:
        """End it."""
        if not self.over:
            await self.become("cancelled", "ended before it was done")
            if self._process is not None and self._process.returncode is None:
                self._process.kill()

    async def become(self, state: str, words: str, share: float | None = None, problems: Sequence[Any] = ()) -> None:
        """Change what is known, and tell everybody who waits. A run that is over stays as it is."""
        if self.over:
            return
        self._state, self._words, self._problems = state, words, problems
        self._share = self._share if share is None else min(max(share, 0.0), 1.0)
        self._version += 1
        async with self._changed:
            self._changed.notify_all()

    async def run(self, store: Store) -> None:
        """Run to the end."""
        await self.become("running", "starting")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "steelyard.page.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
            )
        except OSError as error:
            await self.become("failed", f"no process could be started: {error.strerror}")
            return
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        if self.over:  # cancelled while it started
            process.kill()
        try:
            given = {n: list(v) for n, v in self.question.columns[0].items()}
            process.stdin.write(json.dumps({"screen": self.question.screen.name, "given": given}).encode() + b"\n")
            while line := await process.stdout.readline():
                await self._told(json.loads(line), store)
        except (ValueError, OSError):
            await self.become("failed", "the run ended without an answer")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await self.become("failed", "the run ended without an answer")

    async def _told(self, said: Mapping[str, Any], store: Store) -> None:
        if "tell" in said:
            await self.become("running", str(said["tell"]), said.get("share"))
        elif "shown" in said and not self.over:
            self.shown = shown_from(said["shown"])
            await asyncio.to_thread(store.put, self.question, self.shown)
            await self.become("done", "done", 1.0)
        elif "problems" in said:
            await self.become("failed", str(said.get("words", "")), problems=said["problems"])


class Jobs:
    """The long runs of a server.

    Args:
        store: where answers are kept.
        workers: how many run at once.
    """

    def __init__(self, store: Store, workers: int = 2) -> None:
        self.store, self._workers = store, workers
        self._jobs: dict[str, Job] = {}
        self._free: asyncio.Semaphore | None = None

    def find(self, key: str) -> Job | None:
        """The run of a key."""
        return self._jobs.get(key)

    def known(self, question: Question) -> dict[str, Any] | None:
        """What is known of the run of a question; None: it was not started."""
        job = self._jobs.get(key_of(question.screen, question.columns[0]))
        return {"job": job.key, **job.state()} if job else None

    async def start(self, question: Question, *, again: bool = False) -> Job:
        """Start a run, unless one of the same question is under way or its answer is kept.

        Args:
            question: what is asked.
            again: ask anew although an answer is kept.

        Raises:
            InputError: too many runs wait.
        """
        key = key_of(question.screen, question.columns[0])
        stored = None if again else await asyncio.to_thread(self.store.get, question)
        known = self._jobs.get(key)  # it may have begun while the store was read
        if known is not None and not known.over:
            return known
        job = Job(question, key)
        if isinstance(stored, Shown):
            job.shown = stored
            await job.become("done", "kept from before", 1.0)
        elif sum(not one.over for one in self._jobs.values()) >= MAX_JOBS:
            raise InputError(f"{MAX_JOBS} runs wait already; let one end, or cancel it", field="jobs")
        else:
            job.task = asyncio.create_task(self._run(job))
        self._jobs[key] = job
        for old in [k for k, one in self._jobs.items() if one.over and k != key][:-REMEMBERED]:
            del self._jobs[old]
        return job

    async def _run(self, job: Job) -> None:
        self._free = self._free or asyncio.Semaphore(self._workers)
        async with self._free:
            if not job.over:
                await job.run(self.store)

    async def close(self) -> None:
        """End every run."""
        for job in list(self._jobs.values()):
            await job.cancel()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
