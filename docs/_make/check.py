"""``python docs/_make/check.py site``: the built pages ask no other computer for anything and have no dead link.

What a browser loads to show a page (scripts, styles, pictures, fonts, frames) must be in the folder. Links to other
places are what a reader may follow, and are left alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes a browser loads by itself, by element.
LOADED = {
    "audio": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "script": "src",
    "source": "src",
    "video": "src",
}
#: Files no page links to.
ALONE = {"404.html"}


class Page(HTMLParser):
    """What a page loads, where its links go, what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.names: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.names |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        if value := found.get(LOADED.get(tag, ""), ""):
            self.loads.add(value)


def problems(folder: Path) -> Iterator[str]:
    """One line for each thing that is wrong."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder)
        if str(name) in ALONE:
            continue
        for link in sorted(page.loads):
            parts = urlsplit(link)
            if parts.netloc:
                yield f"{name} loads {link} from another computer"
            elif parts.scheme != "data" and not (path.parent / unquote(parts.path)).is_file():
                yield f"{name} loads {link}, which is not there"
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{name} links to {link}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].names:
                yield f"{name} links to {link}: the page has no such place"
    for path in sorted(folder.rglob("*.css")):
        for link in re.findall(r"(?:url\(|@import\s+)[\"']?(https?:[^\"')]+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(folder)} loads {link} from another computer"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]).resolve()))
    print("\n".join(found) or "no dead link, nothing from another computer")
    sys.exit(bool(found))
