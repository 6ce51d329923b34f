"""The golden cases: how one is run through the command line, made comparable, compared and written again.

``python -m tests.golden.golden [WORDS]`` (or ``make regold``) runs every case whose name holds one of the words, writes
the outputs that changed and prints what changed. It imports nothing of the package but its command line.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import zip_longest
from pathlib import Path
from typing import Any

from steelyard.cli.main import main

__all__ = ["FOLDER", "Difference", "cases", "compare", "missing", "regold", "run", "stored", "table"]

FOLDER = Path(__file__).parent

#: Numbers of JSON and CSV may differ by this much: other processors round the last digits differently.
RELATIVE_TOLERANCE = 1e-9
#: Significant digits of the numbers of request records that are hashed.
RECORD_DIGITS = 9

#: Fields of JSON and columns of CSV that are not compared, as patterns of their dotted path, and why.
NORMALISED = {
    "*version": "changes with every release",
    "*hash": "digest over the version and the descriptions of model and machine",
    "*wall_s": "time of this run",
    "*cpu_s": "time of this run",
    "*build_s": "time of this run",
    "*stages_s.*": "time of this run",
    "*screened_per_s": "speed of this run",
    "time_s": "from the speed of earlier runs",
    "*play_s": "time of this run",
    "*simulation.requests_per_s": "speed of this run",
    "*simulation.iterations_per_s": "speed of this run",
}
#: The same in text, and in the strings of JSON: pattern, what stands in its place, and why.
NORMALISED_TEXT = (
    (r"screened\s+\([\d,.]+/s\)", "screened (N/s)", "speed of this run"),
    (r"layouts\s+priced\s+\([\d,.]+/s\)", "layouts priced (N/s)", "speed of this run"),
    (r"[\d.,]+\s+\S?s\s+of\s+CPU", "T of CPU", "time of this run"),
    (r"(\bsteps)\s+in\s+[\d,.]+\s\S?s\s+\([^)]*\s+requests/s\)", r"\1 in T", "time of this run"),
    (r"(integer\s+programs|fleets\s+played)\s+in\s+[\d,.]+\s+s", r"\1 in T", "time of this run"),
    (r"(?m)^( +\d+)  [0-9a-f]{16}  ", r"\1  (hash)  ", "digest over the version and the descriptions"),
    (r"priced in [\d,.]+ s \([\d,]+ per second\)", "priced in T", "time of this run"),
    (r"about [\d,.]+ (s|min|h) for the other", "about T for the other", "from the speed of earlier runs"),
)
#: What the test of a verb needs beyond the base install.
NEEDS = {"simulate": "numba", "plan": "numba", "sweep": "duckdb", "report": "duckdb"}
#: Files of a case that are not inputs of its commands.
_OURS = re.compile(r"scenario\.toml|expected\..*")


@dataclass(frozen=True)
class Difference:
    """One field that is not as stored."""

    file: str
    field: str
    old: Any
    new: Any

    @property
    def relative(self) -> str:
        """Relative change in per cent, where both are numbers."""
        if not (_number(self.old) and _number(self.new)) or not self.old:
            return ""
        return f"{100.0 * (self.new / self.old - 1.0):+.4g}%"


def cases() -> list[str]:
    """``verb/name`` of every case."""
    return sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in FOLDER.glob("*/*/scenario.toml"))


def missing(case: str) -> str:
    """The optional package without which the case cannot run, or an empty text."""
    scenario = _scenario(case)
    verbs = {scenario["verb"], *(words[0] for words in scenario.get("before", []))}
    needed = sorted({NEEDS[v] for v in verbs if v in NEEDS} | set(scenario.get("needs", [])))
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


def run(case: str) -> dict[str, str]:
    """Run a case in an empty folder that holds copies of its input files.

    Returns:
        content of every ``expected.*`` file by its name, made comparable.
    """
    scenario = _scenario(case)
    with tempfile.TemporaryDirectory() as folder, _settings(Path(folder)):
        place = Path(folder) / "here"
        place.mkdir()
        for path in (FOLDER / case).iterdir():
            if not _OURS.fullmatch(path.name):
                shutil.copy(path, place)
        with contextlib.chdir(place):
            return dict(_outputs(scenario))


def stored(case: str) -> dict[str, str]:
    """Content of every ``expected.*`` file of a case by its name."""
    return {p.name: p.read_text(encoding="utf-8") for p in sorted((FOLDER / case).glob("expected.*"))}


def compare(old: dict[str, str], new: dict[str, str]) -> list[Difference]:
    """Every field that differs between two sets of outputs."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            found.append(Difference(name, "(file)", "" if name not in old else "present", "" if name in old else "new"))
        elif old[name] != new[name] and (read := {".json": json.loads, ".csv": _rows}.get(Path(name).suffix)):
            found += [Difference(name, *x) for x in _differences("", read(old[name]), read(new[name]))]
        elif old[name] != new[name]:
            found += [Difference(name, *x) for x in _line_differences(old[name], new[name])]
    return found


def table(found: dict[str, list[Difference]]) -> str:
    """What changed, one line per field: case, file and field, old, new, relative change."""
    head = ("case", "field", "old", "new", "change")
    rows = [head]
    for case, differences in found.items():
        for d in differences:
            rows.append(
                (case, f"{d.file.removeprefix('expected.')} {d.field}", _short(d.old), _short(d.new), d.relative)
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def regold(words: list[str]) -> int:
    """Run the cases whose names hold one of the words (all without), write what changed and print it."""
    changed: dict[str, list[Difference]] = {}
    asked = [c for c in cases() if not words or any(w in c for w in words)]
    for case in asked:
        if package := missing(case):
            print(f"{case}: left alone, needs {package}", file=sys.stderr)
            continue
        old, new = stored(case), run(case)
        if differences := compare(old, new):
            changed[case] = differences
            for name in old.keys() - new.keys():
                (FOLDER / case / name).unlink()
            for name in {d.file for d in differences} & new.keys():
                (FOLDER / case / name).write_text(new[name], encoding="utf-8")
    if changed:
        print(table(changed))
    print(f"{len(asked)} cases, {len(changed)} changed")
    return 0


def _scenario(case: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / case / "scenario.toml").read_text(encoding="utf-8"))


@contextlib.contextmanager
def _settings(folder: Path) -> Iterator[None]:
    """The environment of a run: no terminal, no colour, and no catalogue of the user's."""
    given = {"COLUMNS": "", "NO_COLOR": "1", "STEELYARD_CATALOGUE": str(folder / "catalogue")}
    (folder / "catalogue").mkdir(exist_ok=True)
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _outputs(scenario: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Run the commands of a scenario where we stand, and yield name and content of every output."""
    for words in scenario.get("before", []):
        code, _, err = _command(words)
        if code != 0:
            raise RuntimeError(f"steelyard {' '.join(words)} ended with {code}: {err}")
    words = _words(scenario)
    records = scenario.get("records", "")
    for form in scenario.get("forms", ["json", "text"]):
        first = form == scenario.get("forms", ["json"])[0]
        more = ["--records", records] if records and first else []
        code, out, err = _command([*words, *([] if form == "text" else [f"--{form}"]), *more])
        if form == "text":
            yield "expected.txt", _text(f"$ steelyard {' '.join(map(_quoted, words))}\n{out}{err}exit code {code}\n")
        elif form == "json" and out:
            yield "expected.json", json.dumps(_normal("", json.loads(out)), indent=1, ensure_ascii=False) + "\n"
        elif form == "csv" and out:
            yield "expected.csv", _csv(out)
    if records:
        yield "expected.records.json", json.dumps(_digest(Path(records)), indent=1) + "\n"
    for name in scenario.get("files", []):
        content = Path(name).read_text(encoding="utf-8")
        yield f"expected.{Path(name).name}", _csv(content) if name.endswith(".csv") else _text(content)


def _words(scenario: dict[str, Any]) -> list[str]:
    """The command-line words of a scenario."""
    words = [scenario["verb"], *([scenario["model"]] if "model" in scenario else []), *scenario.get("names", [])]
    if "on" in scenario:
        words += ["--on", scenario["on"]]
    for name, value in scenario.get("options", {}).items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name}"] if one is True else [f"--{name}", str(one)]
    return words


def _command(words: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\s;*#]", word) else word


def _normal(path: str, value: Any) -> Any:
    """A JSON document without the fields of :data:`NORMALISED`."""
    if isinstance(value, dict):
        return {k: _normal(f"{path}.{k}" if path else k, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_normal(path, v) for v in value]
    if _left_out(path) and value is not None:
        return "(not compared)"
    return _timeless(value) if isinstance(value, str) else value


def _left_out(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in NORMALISED)


def _text(content: str) -> str:
    """Text without the parts of :data:`NORMALISED_TEXT` and without trailing blanks."""
    return "".join(line.rstrip() + "\n" for line in _timeless(content).splitlines())


def _timeless(content: str) -> str:
    for pattern, replacement, _ in NORMALISED_TEXT:
        content = re.sub(pattern, replacement, content)
    return content


def _csv(content: str) -> str:
    """CSV without the columns of :data:`NORMALISED`."""
    rows = list(csv.reader(io.StringIO(content)))
    left = {i for i, name in enumerate(rows[0]) if _left_out(name)}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([["-" if i in left else cell for i, cell in enumerate(row)] for row in rows[1:]])
    return buffer.getvalue()


def _rows(content: str) -> list[dict[str, Any]]:
    return [{k: _cell(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(content))]


def _line_differences(old: str, new: str) -> Iterator[tuple[str, str, str]]:
    """Lines of a text that were replaced, taken out or put in, by their number in the old text."""
    a, b = old.splitlines(), new.splitlines()
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind != "equal":
            for k, (x, y) in enumerate(zip_longest(a[i:i_end], b[j:j_end], fillvalue=_ABSENT)):
                yield f"line {i + 1 + k}", x.strip(), y.strip()


def _cell(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _digest(path: Path) -> dict[str, Any]:
    """Number of rows, and per column a hash over all values in their order, numbers to so many digits."""
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    columns = {}
    for i, name in enumerate(rows[0]):
        cells = [_cell(row[i]) for row in rows[1:]]
        content = "\n".join(f"{c:.{RECORD_DIGITS}g}" if isinstance(c, float) else c for c in cells)
        columns[name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"rows": len(rows) - 1, "sha256_of_column": columns}


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, old and new value of everything that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(f"{path}.{key}" if path else key, old.get(key, _ABSENT), new.get(key, _ABSENT))
        if old.keys() == new.keys() and list(old) != list(new):
            yield f"{path} (order)", " ".join(old), " ".join(new)
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            pair = (old[i] if i < len(old) else _ABSENT, new[i] if i < len(new) else _ABSENT)
            yield from _differences(f"{path}[{i}]", *pair)
    elif not _same(old, new):
        yield path, old, new


_ABSENT = "(absent)"


def _same(old: Any, new: Any) -> bool:
    if _number(old) and _number(new):
        return old == new or math.isclose(old, new, rel_tol=RELATIVE_TOLERANCE) or (old != old and new != new)
    return type(old) is type(new) and old == new


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


if __name__ == "__main__":
    sys.exit(regold(sys.argv[1:]))
