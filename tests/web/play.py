"""Pages in a headless Chromium driven by Playwright: nothing may leave the computer, every message is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import executable

AXE = Path(__file__).with_name("axe.js")
#: Impacts of axe-core that fail a test.
GRAVE = ("serious", "critical")
#: Width and theme of views: each width and each theme once.
VIEWS = ((1280, "light"), (390, "dark"))
_OURS = ("file:", "data:", "blob:", "about:")


@dataclass
class View:
    """An open page."""

    page: Any
    said: list[str] = field(default_factory=list)
    """Messages and errors of its console."""
    asked: list[str] = field(default_factory=list)
    """Addresses it asked for that are no part of it."""

    def violations(self) -> list[str]:
        """What axe-core finds grave; skips the test where it was not fetched."""
        if not AXE.exists():
            pytest.skip("axe-core was not fetched: python hatch_build.py axe")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{v['id']}: {v['help']}: {node['html'][:160]}: {node.get('failureSummary', '')[:200]}"
            for v in found["violations"]
            if v["impact"] in GRAVE
            for node in v["nodes"][:3]
        ]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test without one."""
    sync = pytest.importorskip("playwright.sync_api")
    path = executable()
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Any, address: str, *, width: int = 1280, theme: str = "light", home: str = "file:"
) -> Iterator[View]:
    """Open a page of a given width and theme; ``home``: how addresses begin that it may ask for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    view = View(context.new_page())
    view.page.on("console", lambda m: view.said.append(f"{m.type}: {m.text}"))
    view.page.on("pageerror", lambda e: view.said.append(str(e)))
    view.page.on("request", lambda r: view.asked.append(r.url) if not r.url.startswith((*_OURS, home)) else None)
    view.page.goto(address)
    view.page.wait_for_load_state("load")
    yield view
    context.close()
