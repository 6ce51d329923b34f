"""The blocks of code on the pages: read, run, compared with what the page shows, and written anew.

``python -m tests.docs.blocks [WORDS]`` (part of ``make regold``) runs the pages whose path holds one of the words and
writes what their commands say now into them.

The blocks of a page are one session, from top to bottom, in one folder:

- ``console``: lines behind ``$`` are run, ``steelyard`` in this process; lines below one are what it says. A line of
  three dots stands for any lines, three dots in a line for its rest. Other programs are not run.
- ``python``: run, in one namespace for the page, and written to its ``title`` where it has one.
- ``toml``, ``json``, ``yaml``, ``csv`` with ``title="FILE"``: written to that file. All are parsed.
- ``text``, ``math``, ``html``: not run.

``<!-- not run: REASON -->`` above a block says why it is not; ``<!-- exit 3 -->`` what a command of it ends with.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from steelyard.cli.main import main
from steelyard.cost.models import COST_MODELS
from steelyard.exploration.solver import SOLVERS
from steelyard.simulation.policies._load import POLICIES
from steelyard.techniques import TECHNIQUES
from steelyard.traffic.readers import NAMED, READERS
from steelyard.workload.families import FAMILIES
from steelyard.workload.networks._base import NETWORKS
from steelyard.workload.op import OPERATORS
from tests.docs import files
from tests.golden.golden import NORMALISED_TEXT

__all__ = ["ROOT", "Block", "NotRun", "Problem", "blocks", "compare", "pages", "renewed", "run"]

ROOT = Path(__file__).parents[2]
#: Pages that a command writes, with a test of their own.
GENERATED = ("docs/reference", "docs/validation", "docs/claims")
#: Languages of blocks that are not run.
NO_CODE = ("text", "math", "html")
#: What pages register for their own process.
REGISTRIES = (COST_MODELS, FAMILIES, NETWORKS, OPERATORS, POLICIES, READERS, SOLVERS, TECHNIQUES)
#: Programs of others: not run.
OTHERS = {
    "cd": "a shell's",
    "curl": "asks a server",
    "docker": "a container's",
    "duckdb": "another program",
    "git": "of the repository",
    "kubectl": "a cluster's",
    "llama-bench": "another program",
    "make": "of the repository",
    "open": "the desktop's",
    "pip": "installs",
    "trtexec": "another program",
    "vllm": "another program",
}
#: Words of commands that measure the computer they run on, wait for a reader, take many minutes, or want a file that
#: only the reader has.
NOT_HERE = {
    "calibrate --here": "measures this computer",
    "--on here": "of this computer, once measured",
    "claims --layer": "asks every claim of a layer for minutes",
    "claims --pages": "asks every claim for minutes",
    "steelyard serve": "waits for readers",
    "steelyard validate": "reads measured tables for minutes",
    "pip install": "installs",
    "--from tables/": "wants measured tables",
    "my10.csv": "wants ten measurements",
    "ten.csv": "wants ten measurements",
    "--on my_phone": "wants ten measurements",
    **dict.fromkeys(
        ("bench.json", "c2.json", "log.json", "measured.json", "run.json", "table.md"), "wants a log of yours"
    ),
}
#: Words of commands of five seconds and more whose answers no page shows and that other tests ask too: they run with
#: STEELYARD_ALL_ROWS=1 alone.
SLOW = (
    "advise llama-3.1-70b",
    "advise llama-3.1-8b --on l40s",
    "here --min-tokens-per-s",
    "fit llama-3.3-70b",
    "fit qwen3-vl-8b",
)
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<lang>[\w+-]*)(?P<rest>[^`]*)$")
_MARK = re.compile(r"<!-- *(not run|exit):? *(.*?) *-->")
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


class NotRun(UserWarning):
    """A block that a page says is not run, and why; pytest lists them."""


@dataclass(frozen=True)
class Block:
    """One fence of a page."""

    page: str
    line: int  # of the first line inside, from 0
    lang: str
    title: str
    lines: tuple[str, ...]
    not_run: str = ""
    exit_code: int = 0
    indent: int = 0

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True)
class Problem:
    """What is wrong at a line of a page."""

    page: str
    line: int
    words: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line + 1}: {self.words}"


@dataclass
class Session:
    """What running a page found."""

    problems: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)
    ran: int = 0
    #: For each command with output on the page: its lines there, as (first, last), and what it says.
    said: list[tuple[int, int, list[str]]] = field(default_factory=list)


def pages() -> list[str]:
    """Every page with code that a person writes, by its path in the repository."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = (path.relative_to(ROOT).as_posix() for path in found)
    names = (name for name in names if not name.startswith(GENERATED))
    return [name for name in names if any(block.lang not in NO_CODE for block in blocks(name))]


def blocks(page: str) -> list[Block]:
    """The fences of a page."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    marks: dict[str, str] = {}
    i = 0
    while i < len(lines):
        if mark := _MARK.fullmatch(lines[i].strip()):
            marks[mark[1]] = mark[2]
        elif opened := _FENCE.match(lines[i]):
            indent, start = len(opened["indent"]), i + 1
            while lines[i + 1].strip() != opened["fence"]:
                i += 1
            title = re.search(r'title="([^"]+)"', opened["rest"])
            text = tuple(line[indent:] for line in lines[start : i + 1])
            code = int(marks.get("exit", 0))
            name = title[1] if title else ""
            found.append(Block(page, start, opened["lang"], name, text, marks.get("not run", ""), code, indent))
            marks, i = {}, i + 1
        elif lines[i].strip():
            marks = {}
        i += 1
    return found


@dataclass(frozen=True)
class Command:
    """A line behind ``$``, continued lines with it, and the lines shown below it."""

    words: str
    line: int
    first: int
    shown: tuple[str, ...]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block."""
    i = 0
    while i < len(block.lines):
        start, words = i, block.lines[i].removeprefix("$ ")
        while words.endswith("\\"):
            i += 1
            words = words[:-1] + block.lines[i]
        i += 1
        first = i
        while i < len(block.lines) and not block.lines[i].startswith("$ "):
            i += 1
        shown = block.lines[first:i]
        while shown and not shown[-1].strip():
            shown = shown[:-1]
        yield Command(words, block.line + start, block.line + first, shown)


@cache
def homes() -> dict[str, str]:
    """The page each command is run on, by its words: the first that shows what it says, or the first that names it."""
    found: dict[str, tuple[bool, str]] = {}
    for page in pages():
        for block in blocks(page):
            if block.lang == "console" and not block.not_run:
                for command in commands(block):
                    for words, target in pieces(command.words):
                        name, shows = shlex.join(words), bool(command.shown or target or "--out" in words)
                        if name not in found or (shows and not found[name][0]):
                            found[name] = shows, page
    return {name: page for name, (_, page) in found.items()}


def run(page: str, folder: Path) -> Session:
    """Run a page in a folder, which is the working directory meanwhile."""
    session = Session()
    files.lay(folder)
    module = sys.modules["page"] = ModuleType("page")  # dataclasses look their module up
    own = [(registry, {*registry._own}) for registry in REGISTRIES]
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ["STEELYARD_CATALOGUE"] = str(folder / "catalogue")
    adds = any(block.title.startswith("catalogue/") or "steelyard calibrate" in block.text for block in blocks(page))
    if adds:
        _forget()
    try:
        for block in blocks(page):
            if block.title and not Path(block.title).exists():  # a page may speak of a file before it shows it
                _file(block, folder, Session())
        for block in blocks(page):
            if block.not_run:
                session.left_out.append(Problem(page, block.line, block.not_run))
            elif block.lang == "console":
                _console(block, folder, session)
            elif block.lang == "python":
                session.ran += 1
                if block.title:
                    _file(block, folder, session)
                _python(block, vars(module), session)
            elif block.lang in ("toml", "json", "yaml", "csv"):
                session.ran += 1
                _file(block, folder, session)
            elif block.lang not in NO_CODE:
                session.problems.append(
                    Problem(page, block.line, f"blocks of {block.lang or 'no language'} are not run")
                )
        _contracts(page, folder, module, session)
    finally:
        for registry, known in own:
            for name in {*registry._own} - known:
                del registry._own[name]
                registry._changes.append(name)
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        if adds:
            _forget()
    return session


def _forget() -> None:
    """Forget what was read of catalogues."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("steelyard."):
            for thing in [*vars(module).values()]:
                if callable(clear := getattr(thing, "cache_clear", None)):
                    clear()


def _contracts(page: str, folder: Path, module: ModuleType, session: Session) -> None:
    """Run the test classes of a page: its Python as one file, by pytest."""
    if not any(name.startswith("Test") for name in vars(module)):
        return
    code = [block.text for block in blocks(page) if block.lang == "python" and not block.not_run]
    (folder / "test_page.py").write_text("\n".join(code), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "test_page.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    session.ran += 1
    if done.returncode:
        session.problems.append(Problem(page, 0, f"its tests: {done.stdout[-1500:]}"))


def _file(block: Block, folder: Path, session: Session) -> None:
    try:
        if block.lang == "toml":
            tomllib.loads(block.text)
        elif block.lang == "json":
            json.loads(block.text)
        elif block.lang == "yaml":
            yaml.safe_load(block.text)
    except (ValueError, yaml.YAMLError) as error:
        session.problems.append(Problem(block.page, block.line, f"{block.lang} that cannot be read: {error}"))
    if block.title:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")


def _python(block: Block, names: dict[str, Any], session: Session) -> None:
    sys.path.insert(0, "")
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile("\n" * block.line + block.text, block.page, "exec"), names)
    except Exception as error:
        at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == block.page]
        line = (at[-1] or 1) - 1 if at else block.line
        session.problems.append(Problem(block.page, line, f"{type(error).__name__}: {error}"))
    finally:
        sys.path.remove("")


def _console(block: Block, folder: Path, session: Session) -> None:
    for command in commands(block):
        said: list[str] = []
        wrong = False
        for words, target in pieces(command.words):
            if words[0] == "cat" and not Path(words[1]).exists():  # a file of the reader, shown here
                Path(words[1]).write_text("\n".join(command.shown) + "\n", encoding="utf-8")
            told = command.shown or target or "--out" in words
            reason = _left_out(words) or ("" if told else _slow(words))
            if reason:
                session.left_out.append(Problem(block.page, command.line, f"`{' '.join(words)}`: {reason}"))
                wrong = True
                continue
            session.ran += 1
            if not told and homes().get(shlex.join(words), block.page) != block.page:
                continue
            code, out, err = _spoken(words)
            out, err = (text.replace(f"{folder}{os.sep}", "") for text in (out, err))
            if target:
                (folder / target).write_text(out, encoding="utf-8")
                out = ""
            wanted = block.exit_code or (2 if any(line.startswith("error: ") for line in command.shown) else 0)
            if code != wanted:
                tail = " ".join(err.split()[-60:])
                problem = f"`{' '.join(words)}` ends with {code} in place of {wanted}: {tail}"
                session.problems.append(Problem(block.page, command.line, problem))
                wrong = True
            said += (out + (err if wanted else "")).splitlines()
        if command.shown and not wrong:
            session.said.append((command.first, command.first + len(command.shown), said))
            for line, words_wrong in compare(command.shown, said):
                session.problems.append(Problem(block.page, command.first + line, words_wrong))


def pieces(line: str) -> Iterator[tuple[list[str], str]]:
    """The commands of a line (``a; b > FILE  # remark``) as words, each with the file it writes to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";>&")
    lexer.whitespace_split = True
    words: list[str] = []
    target = ""
    tokens = iter(lexer)
    for token in tokens:
        if token in (";", "&&", "&"):
            yield words, target
            words, target = [], ""
        elif token == ">":
            target = next(tokens)
        else:
            words.append(token)
    if words:
        yield words, target


def _left_out(words: Sequence[str]) -> str:
    line = " ".join(words)
    for part, reason in NOT_HERE.items():
        if part in line:
            return reason
    if not os.environ.get("STEELYARD_DATA") and {*words} & {*NAMED}:
        return "wants a public trace under $STEELYARD_DATA"
    if words[0] in OTHERS or words[0].startswith("./") or "=" in words[0]:
        return OTHERS.get(words[0], "another program")
    return ""


def _slow(words: Sequence[str]) -> str:
    if os.environ.get("STEELYARD_ALL_ROWS") == "1":
        return ""
    line = " ".join(words)
    return next(("takes long: STEELYARD_ALL_ROWS=1 runs it" for part in SLOW if part in line), "")


def _spoken(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if words[0] == "cat":
                print(Path(words[1]).read_text(encoding="utf-8"))
                code = 0
            elif words[0] == "ls":
                print("\n".join(sorted(path.name for path in Path(words[-1] if len(words) > 1 else ".").glob("[!.]*"))))
                code = 0
            elif words[0] == "python":
                runpy.run_path(words[1], run_name="__main__")
                code = 0
            elif words[0] == "steelyard":
                code = main(list(words[1:]))
            else:
                code, _ = 127, print(f"no program {words[0]!r} is known to the test of the pages", file=sys.stderr)
        except SystemExit as error:
            code = int(error.code or 0)
        except Exception as error:
            code, _ = 1, print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return code, out.getvalue(), err.getvalue()


def _plain(line: str) -> str:
    """A line without what differs from run to run, and with single blanks."""
    for pattern, replacement, _ in NORMALISED_TEXT:
        line = re.sub(pattern, replacement, line)
    return " ".join(line.split())


def _skeleton(line: str) -> str:
    return re.sub(r"\s+", " ", _NUMBER.sub("0", _plain(line)))


def same(shown: str, said: str) -> bool:
    """Whether a line says what the page shows: the same words, numbers within one of the last digit shown."""
    shown, dots, _ = _plain(shown).partition("...")
    said = _plain(said)
    words, others = _NUMBER.split(shown), _NUMBER.split(said)
    if dots:
        others = others[: len(words)]
        others[-1] = others[-1][: len(words[-1])]
    return words == others and all(map(_near, _NUMBER.findall(shown), _NUMBER.findall(said)))


def _near(shown: str, said: str) -> bool:
    a, b = shown.replace(",", ""), said.replace(",", "")
    mantissa, _, power = a.partition("e")
    decimals = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(power or 0) - decimals)
    return abs(float(a) - float(b)) <= 1.01 * unit


def _alike(shown: str, said: str) -> float:
    """How much a line is the one shown: all that is in it, all but some numbers, or its first word."""
    if same(shown, said):
        return 3.0
    if _skeleton(shown) == _skeleton(said):
        words = list(zip(shown.split(), said.split(), strict=False))
        return 1.0 + sum(a == b for a, b in words) / len(words)
    return 0.5 if shown.split()[:1] == said.split()[:1] else 0.0


def _places(shown: Sequence[str], said: Sequence[str]) -> Iterator[tuple[int, list[str], int]]:
    """For each part of the shown lines between lines of dots: where it begins there, its lines, where it fits best.

    The first part without dots above begins at the first line, the last without dots below ends at the last.
    """
    parts: list[tuple[int, list[str]]] = [(0, [])]
    for i, line in enumerate(shown):
        if line.strip() == "...":
            parts.append((i + 1, []))
        else:
            parts[-1][1].append(line)
    cursor = 0
    for number, (start, lines) in enumerate(parts):
        if not lines:
            continue
        if number == 0:
            at = 0
        elif number == len(parts) - 1 and len(parts) > 1 and len(lines) == 1 and not lines[0].strip():
            at = len(said) - 1
        else:
            scores = [
                (sum(map(_alike, lines, said[k : k + len(lines)])), -k)
                for k in range(cursor, max(cursor + 1, len(said)))
            ]
            at = -max(scores)[1]
        yield start, lines, at
        cursor = at + len(lines)


def compare(shown: Sequence[str], said: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The lines of a page that are not what the command says, by their number, with what it says in their place."""
    whole = not any(line.strip() == "..." for line in shown)
    end = len(said)
    while end and not said[end - 1].strip():
        end -= 1
    said = said[:end]
    if whole and len(said) > len(shown):
        yield len(shown) - 1, f"{len(said) - len(shown)} more lines are said; write `...` for them"
    for start, lines, at in _places(shown, said):
        for i, line in enumerate(lines):
            other = said[at + i] if at + i < len(said) else ""
            if not same(line, other):
                yield start + i, f"the page shows {line.strip()!r}, the command says {other.strip()!r}"


def fresh(shown: Sequence[str], said: Sequence[str]) -> list[str]:
    """The shown lines as the command says them now, lines of dots where they were."""
    while said and not said[-1].strip():
        said = said[:-1]
    if not any(line.strip() == "..." for line in shown):
        return list(said)
    new = list(shown)
    for start, lines, at in _places(shown, said):
        for i, line in enumerate(lines):
            other = said[at + i] if at + i < len(said) else ""
            if "..." not in line and (_alike(line, other) or not line.strip()):
                new[start + i] = other
    return new


def renewed(page: str, session: Session) -> str:
    """The text of the page with what its commands say now."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    indents = {block.line: block.indent for block in blocks(page)}
    for first, last, said in sorted(session.said, reverse=True):
        indent = " " * indents[max(line for line in indents if line <= first)]
        shown = [line.removeprefix(indent) for line in lines[first:last]]
        if any(True for _ in compare(shown, said)):
            new = fresh(shown, said)
            if any(True for _ in compare(new, said)):  # other lines than these: a person says which are shown
                print(f"{page}:{first + 1}: what is said has other lines than the page shows; choose them by hand")
                continue
            lines[first:last] = [(indent + line).rstrip() for line in new]
    return "\n".join(lines) + "\n"


def write(words: Sequence[str]) -> int:
    """Renew the pages whose path holds one of the words; the number of them that cannot be mended so."""
    failed = 0
    for page in pages():
        if words and not any(word in page for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            session = run(page, Path(folder))
        text = renewed(page, session)
        changed = text != (ROOT / page).read_text(encoding="utf-8")
        if changed:
            (ROOT / page).write_text(text, encoding="utf-8")
        wrong = [p for p in session.problems if "the page shows" not in p.words and "more lines" not in p.words]
        failed += bool(wrong)
        print(f"{page}: {session.ran} ran, {len(session.left_out)} left out{', written anew' if changed else ''}")
        for problem in wrong:
            print(f"  {problem}")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, write(sys.argv[1:])))
