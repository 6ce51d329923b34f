"""Readers of the local page: the query, a dropped file, an answer that was kept."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from steelyard.errors import InputError
from steelyard.page.drop import keep_dropped
from steelyard.page.form import form_of
from steelyard.page.question import read_question
from steelyard.page.screen import Shown, screen, screens
from steelyard.page.store import Store
from tests.fuzz import corpus
from tests.fuzz.judge import Wrong

QUESTION = "model=llama-3.1-8b&on=h100_sxm:8&tp=8&batch=8&enforce_eager=true&techniques=fp8-kv&2.on=b200_sxm&_column=2"


def queries() -> list[bytes]:
    """Addresses of every screen as it starts, and one with two columns."""
    return [f"{one.name}?{urlencode(one.start)}".encode() for one in screens().values()] + [
        f"estimate?{QUESTION}".encode()
    ]


def query(content: bytes, folder: Path) -> None:
    """The question of an address: its form, command and Python, without its answer."""
    name, _, text = content.decode("utf-8", "replace").partition("?")
    question = read_question(screen(name), text)
    if read_question(question.screen, question.query).columns != question.columns:
        raise Wrong("the query of a question asks another one")
    form_of(question)
    for i in range(len(question.columns)):
        question.command(i)
        question.words(i)


def dropped(content: bytes, folder: Path) -> None:
    """A file dropped on the page."""
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    for path in kept.iterdir():
        path.unlink()
    try:
        keep_dropped(kept, "x.json", content)
    except InputError:
        if list(kept.iterdir()):
            raise Wrong("a file that was refused is kept") from None
        raise


def configs() -> list[bytes]:
    """Configs of models."""
    return corpus.configs()[:4]


def answers() -> list[bytes]:
    """A kept answer."""
    return [b""]


def answer(content: bytes, folder: Path) -> None:
    """An answer whose file was damaged: the one that was kept, or none and a notice."""
    place = folder / "answers"
    question = read_question(screen("estimate"), "model=a&on=b")
    shown = Shown({"schema": "x", "n": [1.5, "text"]}, [{"a": 1}], [], {"title": "t"})
    store = Store(place)
    store.put(question, shown)
    (path,) = place.glob("*.json")
    whole = path.read_bytes()
    at = len(content) % len(whole)
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    found = store.get(question)
    for other in place.iterdir():
        other.unlink()
    if found is None and not store.notices:
        raise Wrong("a damaged answer is not said")
    if found is not None and found != shown:
        raise Wrong("a damaged answer is taken")
