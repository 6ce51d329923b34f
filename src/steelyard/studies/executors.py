"""Who prices the chunks: this process, a pool of processes, or a Ray cluster. The work is the same function.

An executor is a generator: chunks in, ``(chunk, Priced)`` out in whatever order they come.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

from steelyard.errors import InputError, show, suggest
from steelyard.studies.answers import Chunk, Priced, failed, price_chunk

__all__ = ["EXECUTORS", "MAX_JOBS", "check_executor", "execute"]

Results = Generator[tuple[Chunk, Priced], None, None]

#: Processes at once at most.
MAX_JOBS = 1024
#: Chunks handed out ahead per worker: enough to keep it busy, few enough to stop quickly.
_AHEAD = 2

_DIED = "the process that priced it died (out of memory, or killed)"


def execute(name: str, chunks: Sequence[Chunk], jobs: int, work: Callable[[Chunk], Priced] = price_chunk) -> Results:
    """Price chunks with the executor called ``name``.

    Args:
        name: ``process``, ``ray`` or ``serial``.
        chunks: in the order they should be begun.
        jobs: processes at once; for Ray 0 = as many as the cluster has CPUs.
        work: prices one chunk.

    Raises:
        InputError: no such executor, or Ray is not installed.
    """
    check_executor(name)
    return EXECUTORS[name](chunks, jobs, work)


def check_executor(name: object) -> None:
    """Refuse what names no executor. Raises :class:`InputError`."""
    if not isinstance(name, str) or name not in EXECUTORS:
        near = suggest(name, EXECUTORS) if isinstance(name, str) else []
        words = f"expected one of {', '.join(EXECUTORS)}, got {show(name)}"
        raise InputError(words + (f"; did you mean {near[0]!r}?" if near else ""), field="executor")


def _serial(chunks: Sequence[Chunk], jobs: int, work: Callable[[Chunk], Priced]) -> Results:
    for chunk in chunks:
        yield chunk, work(chunk)


def _begin_worker() -> None:
    """Ctrl-C is the parent's to handle; a worker whose parent was killed ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_worker)


def _processes(chunks: Sequence[Chunk], jobs: int, work: Callable[[Chunk], Priced]) -> Results:
    """A pool; when a worker dies, the chunks in flight are tried again point by point."""
    waiting = list(reversed(chunks))
    jobs = max(1, min(jobs, len(chunks)))
    while waiting:
        pool = _pool(jobs)
        flying: dict[Future[Priced], Chunk] = {}
        suspects: list[Chunk] = []
        try:
            while (waiting or flying) and not suspects:
                while waiting and len(flying) < jobs * _AHEAD:
                    chunk = waiting.pop()
                    try:
                        flying[pool.submit(work, chunk)] = chunk
                    except BrokenProcessPool:
                        suspects.append(chunk)
                        break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    chunk = flying.pop(future)
                    try:
                        found = future.result()
                    except BrokenProcessPool:
                        suspects.append(chunk)
                        continue
                    yield chunk, found
            suspects += flying.values()
        finally:
            _end(pool)
        for chunk in suspects:
            yield chunk, _alone(chunk, work)


def _alone(chunk: Chunk, work: Callable[[Chunk], Priced]) -> Priced:
    """Every point of a chunk in turn; the one that kills its process is recorded as failed."""
    found = Priced(chunk.kind)
    pool = _pool(1)
    try:
        for one in chunk.alone():
            try:
                found.add(pool.submit(work, one).result())
            except BrokenProcessPool:
                found.add(failed(one, _DIED))
                _end(pool)
                pool = _pool(1)
    finally:
        _end(pool)
    return found


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop a pool without waiting for work that nobody wants any more."""
    workers = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def _ray(chunks: Sequence[Chunk], jobs: int, work: Callable[[Chunk], Priced]) -> Results:
    """A Ray cluster: the one at ``RAY_ADDRESS``, or one started here."""
    try:
        import ray
    except ImportError:
        raise InputError("this executor needs ray: pip install 'steelyard[ray]'", field="executor") from None
    own = not ray.is_initialized()
    if own:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            num_cpus=None if os.environ.get("RAY_ADDRESS") else max(1, jobs),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        remote: Any = ray.remote(num_cpus=1, max_retries=1)(work)
        cluster: Any = ray.cluster_resources()
        most = max(1, jobs or int(cluster.get("CPU", 1))) * _AHEAD
        waiting = list(reversed(chunks))
        flying: dict[Any, Chunk] = {}
        while waiting or flying:
            while waiting and len(flying) < most:
                chunk = waiting.pop()
                flying[remote.remote(chunk)] = chunk
            done, _ = ray.wait(list(flying), num_returns=1)
            for reference in done:
                chunk = flying.pop(reference)
                try:
                    found = ray.get(reference)
                except ray.exceptions.RayError as error:
                    if len(chunk.hashes) > 1:
                        waiting += reversed(chunk.alone())
                        continue
                    found = failed(chunk, f"{_DIED}: {type(error).__name__}")
                yield chunk, found
    finally:
        if own:
            ray.shutdown()


#: Executors by name; the first is the default.
EXECUTORS: dict[str, Callable[[Sequence[Chunk], int, Callable[[Chunk], Priced]], Results]] = {
    "process": _processes,
    "ray": _ray,
    "serial": _serial,
}
