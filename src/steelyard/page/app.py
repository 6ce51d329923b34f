"""The server: screens as pages, their twins as JSON and CSV, names, files dropped on it, and long runs.

``GET /NAME?...`` is a page, ``GET /api/NAME?...`` the JSON of the command, ``/api/NAME.csv`` its rows. A question that
is wrong is 422 with ``steelyard.problems/1``; nothing else of a failure leaves the server.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from steelyard.errors import InputError, SteelyardError
from steelyard.page import names
from steelyard.page.answers import Answers, Column, column_of, json_text
from steelyard.page.drop import keep_dropped
from steelyard.page.guard import MAX_BODY, Guard, TooLarge, names_of
from steelyard.page.jobs import Job, Jobs
from steelyard.page.openapi import openapi
from steelyard.page.pages import ASSETS, error_page, screen_page
from steelyard.page.problems import Wrong, problems_dict, wrong_of
from steelyard.page.question import Question, read_question
from steelyard.page.screen import Screen, Shown, screens
from steelyard.page.store import Store
from steelyard.report.cells import csv_text
from steelyard.report.figures import asset, has_library

__all__ = ["make_app"]

_NOT_KEPT = {"cache-control": "no-store"}
#: Seconds that the first page has for itself.
_FIRST_PAGE_S = 2.0
#: Answers worked on at once. They hold the interpreter, so several would all be late; and two threads that import
#: modules which import each other see them half made.
_AT_ONCE = 1
#: Seconds after which a stream of progress says that it is still there.
_ALIVE_S = 15.0


def make_app(folder: Path | None = None, store: Path | None = None, host: str = "127.0.0.1", workers: int = 2) -> Any:
    """The application, in ASGI, behind its :class:`~steelyard.page.guard.Guard`.

    Args:
        folder: of the session, where dropped files are kept and the server works; None: nothing is taken.
        store: the folder of answers that took long; None: kept in memory.
        host: what the server is bound to.
        workers: long runs at once.
    """
    page = _Page(folder, Jobs(Store(store), workers))

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(page.warm)
            yield
            tasks.cancel_scope.cancel()
        await page.jobs.close()

    routes = [
        Route("/", page.home),
        Route("/favicon.ico", page.icon),
        Route("/assets/{name}", page.asset),
        Route("/api/openapi.json", page.described),
        Route("/api/names", page.names),
        Route("/api/{name}", page.api),
        Route("/files/{name}/{file}", page.file),
        Route("/drop", page.drop, methods=["POST"]),
        Route("/jobs/{name}", page.start, methods=["POST"]),
        Route("/jobs/{key}", page.cancel, methods=["DELETE"]),
        Route("/jobs/{key}/events", page.events),
        Route("/{name}", page.screen),
    ]
    handlers: dict[Any, Any] = {
        SteelyardError: page.wrong,
        TooLarge: page.too_large,
        ClientDisconnect: page.left,
        HTTPException: page.missing,
        Exception: page.failed,
    }
    app = Starlette(routes=routes, lifespan=life, exception_handlers=handlers)
    return Guard(app, names_of(host), lambda scope, status, words: _said(scope["path"], status, words))


def _said(path: str, status: int, words: str, problems: Sequence[Wrong] = ()) -> Response:
    """An error in the form that the path is of; ``problems``: each thing that is wrong, where more is known."""
    if path.startswith(("/api", "/drop", "/jobs")):
        return _json(problems_dict(problems or [Wrong("", words)]), status)
    return HTMLResponse(error_page(status, words, plain=status == 421), status)


def _json(document: Any, status: int = 200) -> Response:
    return Response(json_text(document), status, _NOT_KEPT, media_type="application/json")


class _Page:
    """What the routes have in common."""

    def __init__(self, folder: Path | None, jobs: Jobs) -> None:
        self.folder, self.jobs, self.answers = folder, jobs, Answers()
        self.limit: anyio.CapacityLimiter | None = None

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function beside the loop, a few at once."""
        self.limit = self.limit or anyio.CapacityLimiter(_AT_ONCE)
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self.limit)

    async def warm(self) -> None:
        """Read the names that forms offer, once the first page is out of the way, one kind after another."""
        await anyio.sleep(_FIRST_PAGE_S)
        for kind in names.FIRST:
            with suppress(SteelyardError):  # of a broken catalogue: said where it is asked for
                await self.work(names.names_like, kind)

    # pages

    async def home(self, request: Request) -> Response:
        first = next(iter(screens()))
        return RedirectResponse(f"/{first}", 307)

    async def screen(self, request: Request) -> Response:
        """A page of a screen; without a question it starts with one."""
        one = screens().get(request.path_params["name"])
        if one is None:
            raise HTTPException(404, "there is no such page")
        pairs = request.query_params.multi_items()
        if not any(not n.startswith("_") for n, _ in pairs) and one.start:
            return RedirectResponse(f"/{one.name}?{urlencode(one.start)}", 307)
        text = await self.work(self._page, one, request.url.query)
        return HTMLResponse(text, headers=_NOT_KEPT)

    def _page(self, one: Screen, query: str) -> str:
        question = read_question(one, query)
        active, notices = question.active, self.jobs.store.notices
        job = self.jobs.known(question.alone(active)) if one.long else None
        numbers = range(1, len(question.columns) + 1)
        columns = [self._long(question, i) for i in numbers] if one.long else self.answers.columns(question)
        return screen_page(question, columns, active=active, job=job, notices=notices)

    def _long(self, question: Question, number: int) -> Column:
        """A column of a long screen: its stored answer, or what is wrong with its words."""
        made, alone = column_of(question, number - 1), question.alone(number)
        try:
            alone.words()
        except SteelyardError as error:
            return made.refused(wrong_of(error))
        stored = self.jobs.store.get(alone)
        if isinstance(stored, Shown):
            return made.answered(stored)
        known = self.jobs.known(alone)
        if known is not None and known["problems"]:
            return made.refused([Wrong(**one) for one in known["problems"]])
        return made

    async def asset(self, request: Request) -> Response:
        """A file of the page: its own, or of the figures."""
        name = request.path_params["name"]
        path = ASSETS.get(name)
        if path is None and name in ("echarts.js", "figures.js", "figures.css"):
            path = asset(name) if name != "echarts.js" or has_library() else None
        if path is None:
            raise HTTPException(404, "there is no such file")
        return FileResponse(path, headers={"cache-control": "no-cache"})

    async def icon(self, request: Request) -> Response:
        return FileResponse(ASSETS["icon.svg"], headers={"cache-control": "max-age=86400"})

    # JSON and CSV

    async def described(self, request: Request) -> Response:
        """The OpenAPI document."""
        return _json(await self.work(openapi))

    async def names(self, request: Request) -> Response:
        """Names like what is typed."""
        kind, text = request.query_params.get("kind", ""), request.query_params.get("q", "")
        most = request.query_params.get("limit", "12")
        if not most.isdecimal() or len(most) > 3:
            raise InputError(f"expected a whole number up to {names.MAX_NAMES}", field="limit")
        found = await self.work(names.names_like, kind, text, int(most))
        return _json({"schema": "steelyard.names/1", "kind": kind, "names": found})

    async def api(self, request: Request) -> Response:
        """The JSON or CSV twin of a screen."""
        name, _, form = request.path_params["name"].partition(".")
        one = screens().get(name)
        if one is None or form not in ("", "json", "csv"):
            raise HTTPException(404, "there is no such question; /api/openapi.json lists all")
        question = read_question(one, request.url.query)
        shown = await self._answer(question)
        if form == "csv":
            return PlainTextResponse(csv_text(shown.rows), headers=_NOT_KEPT, media_type="text/csv; charset=utf-8")
        return _json(shown.document)

    async def file(self, request: Request) -> Response:
        """A text of an answer, to be downloaded."""
        one = screens().get(request.path_params["name"])
        if one is None:
            raise HTTPException(404, "there is no such page")
        question, wanted = read_question(one, request.url.query), request.path_params["file"]
        if wanted in one.made:
            text = await self.work(one.made[wanted], question.words())
        elif wanted in (files := (await self._answer(question)).files):
            text = files[wanted]
        else:
            raise HTTPException(404, "the answer has no such file")
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in wanted)
        return PlainTextResponse(text, headers={"content-disposition": f'attachment; filename="{safe}"'})

    async def _answer(self, question: Question) -> Shown:
        if len(question.columns) > 1:
            raise InputError("expected one question at a time", field="columns")
        if not question.screen.long:
            return await self.work(self.answers.of, question)  # type: ignore[no-any-return]
        question.words()
        job = await self.jobs.start(question)
        return await job.result()

    # files and long runs

    async def drop(self, request: Request) -> Response:
        """A file dropped on the page: its content is the body, its name and size stand in the query."""
        whole = request.query_params.get("size", "0")
        if not whole.isdecimal() or len(whole) > 18:
            raise InputError("expected the size in bytes", field="size")
        data = await request.body()
        if len(data) > MAX_BODY:
            raise TooLarge
        name = request.query_params.get("name", "")
        return _json(await self.work(keep_dropped, self.folder, name, data, int(whole)))

    async def start(self, request: Request) -> Response:
        """Start a long run, or find the one that answers the same question."""
        one = screens().get(request.path_params["name"])
        if one is None or not one.long:
            raise HTTPException(404, "there is no such run")
        question = read_question(one, request.url.query)
        question = question.alone(question.active)
        question.words()
        job = await self.jobs.start(question, again=request.query_params.get("_again") == "1")
        return _json({"schema": "steelyard.job/1", "job": job.key, **job.state()}, 202)

    async def cancel(self, request: Request) -> Response:
        """End a long run."""
        job = self._job(request)
        await job.cancel()
        return _json({"schema": "steelyard.job/1", "job": job.key, **job.state()})

    async def events(self, request: Request) -> Response:
        """The progress of a long run as server-sent events, until it is over."""
        from starlette.responses import StreamingResponse

        job = self._job(request)

        async def stream() -> AsyncIterator[str]:
            async for state in job.states(_ALIVE_S):
                yield f"event: {state['state']}\ndata: {json.dumps(state)}\n\n" if state else ": still here\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers=_NOT_KEPT)

    def _job(self, request: Request) -> Job:
        job = self.jobs.find(request.path_params["key"])
        if job is None:
            raise HTTPException(404, "there is no such run")
        return job

    # what goes wrong

    async def wrong(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, SteelyardError)
        status = 422 if isinstance(error, InputError) else 409 if error.exit_code == 3 else 503
        return _said(request.url.path, status, str(error), wrong_of(error))

    async def too_large(self, request: Request, error: Exception) -> Response:
        return _said(request.url.path, 413, f"at most {MAX_BODY // 2**20} MiB are taken")

    async def left(self, request: Request, error: Exception) -> Response:
        """The browser hung up amid its file: nobody hears the answer."""
        return Response(status_code=400)

    async def missing(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "there is no such page", 405: "this address takes another method"}
        own = error.detail if error.detail[:1].islower() else words.get(error.status_code, "the request was refused")
        return _said(request.url.path, error.status_code, own)

    async def failed(self, request: Request, error: Exception) -> Response:
        """An error of ours: its traceback goes to the terminal (the server writes it), not to the browser."""
        return _said(request.url.path, 500, "this is a fault of ours; the terminal of `steelyard serve` says more")
