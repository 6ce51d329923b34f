"""Writes the reference pages that follow from the code: command line, JSON form, machine, node and format files.

Run by ``make docs``; the unit tests check that the pages are up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from steelyard.cli.help import EXAMPLES
from steelyard.cli.main import app, described
from steelyard.deployment.engine import Engine, KernelSpeed, Limits, Rules
from steelyard.deployment.formats import Format
from steelyard.machine.classes import Family, Kind, Stack
from steelyard.machine.component import Compute, Link, Machine, Memory
from steelyard.machine.network import Network, Node, Price
from steelyard.report.perfetto import EVENTS, MAX_REQUESTS, MAX_STEPS
from steelyard.report.records import MEANINGS
from steelyard.report.schema import fields_of_form
from steelyard.scenario.fields import REQUIRED, VERBS, fields_of
from steelyard.techniques import TECHNIQUES, Technique
from steelyard.units import Quantity

sys.path.insert(0, str(Path(__file__).parent))
from interface import python
from stub import stub

HERE = Path(__file__).parent
#: What editors see of the package.
STUB = HERE.parents[1] / "src/steelyard/__init__.pyi"
#: What validation found, as the local page shows it.
ACCURACY = HERE.parents[1] / "src/steelyard/page/accuracy.json"
NOTE = "<!-- Written by docs/reference/generate.py; change the code it describes instead. -->\n\n"


def pages() -> dict[str, str]:
    """Every generated page by file name."""
    texts = {
        "cli.md": cli(),
        "fields.md": field_tables(),
        "json.md": json_form(),
        "files.md": files(),
        "techniques.md": techniques(),
        "python.md": python(),
    }
    texts |= {f"mechanisms/{name}.md": mechanism(name, cls) for name, cls in mechanisms().items()}
    return {name: NOTE + text for name, text in texts.items()}


def accuracy() -> str:
    """The rows of the pages of validation as data that the local page shows.

    ``rows`` are those of the index, by source; ``each`` those of one machine (over all models) or one model (over all
    machines) from the page of each source.
    """
    folder = HERE.parent / "validation"
    rows = [[*words[:4], *figures[:8]] for words, figures in _figures_of(folder / "index.md")]
    heads = ["source", "table", "what", "which", "rows", "covered", "median", "mean", "p90", "bias", "inside", "width"]
    each = [
        [source, *row] for source in dict.fromkeys(row[0] for row in rows) for row in _each(folder / f"{source}.md")
    ]
    finer = ["source", "table", "what", "machine", "model", *heads[3:]]
    finer.remove("mean")
    parts = {"heads": heads, "rows": rows, "finer": finer, "each": each}
    lines = (f'"{n}": {_lines(x) if x and isinstance(x[0], list) else json.dumps(x)}' for n, x in parts.items())
    return '{"schema": "steelyard.accuracy/2",\n' + ",\n".join(lines) + "}\n"


def _lines(rows: list[list[Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows) + "\n]"


def _figures_of(page: Path) -> Iterator[tuple[list[str], list[float | None]]]:
    """Words and figures of every line of the tables of a page; of a page of a source its table comes first."""
    table = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            table = line[3:].strip()
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if len(cells) == 13 and (count := cells[4].replace(",", "")).isdecimal():
            figures = [float(c.replace(",", "")) if c else None for c in (count, *cells[5:])]
            yield ([] if page.stem == "index" else [table]) + cells[:4], figures


def _each(page: Path) -> Iterator[list[Any]]:
    """Rows of one machine or of one model: the line that sums up the other, or the only one there is."""
    lines = list(_figures_of(page))
    seen = Counter((*w[:2], w[4], axis, w[axis]) for w, _ in lines for axis in (2, 3))
    for words, figures in lines:
        table, what, machine, model, which = words
        alone = [seen[table, what, which, axis, words[axis]] == 1 for axis in (2, 3)]
        kept = (model == "*" or alone[0], machine == "*" or alone[1])
        if (machine, model) != ("*", "*") and any(kept):
            rows, covered, median, _, *rest = figures[:8]
            found = [int(x) if x is not None and x.is_integer() else x for x in (rows, covered, median, *rest)]
            yield [table, what, machine if kept[0] else "*", model if kept[1] else "*", which, *found]


def mechanisms() -> dict[str, type[Technique]]:
    """Every built-in technique that is code, by name; presets are on the page of theirs."""
    known = {name: TECHNIQUES.get(name) for name in TECHNIQUES if TECHNIQUES.built_in(name)}
    return {name: cls for name, cls in known.items() if cls.mechanism in ("", name)}


def mechanism(name: str, cls: type[Technique]) -> str:
    """The page of a mechanism: its formula, parameters with units and bounds, and the papers that are presets of it."""
    about = sys.modules[cls.__module__].__doc__ or ""
    own = (cls.__doc__ or "").strip()
    parts = [f"# {name}", "", f"{cls.effect[0].upper()}{cls.effect[1:]}. Verbs: {cls.about()['verbs']}.", ""]
    parts += [_markdown(own), ""] if own and not own.startswith("See the module") else []
    parts += [_markdown(about), ""]
    if cls.parameters():
        parts += ["## Parameters", "", "| parameter | unit and bounds | default | meaning |", "|---|---|---|---|"]
        hints = get_type_hints(cls, include_extras=True)
        for p in cls.parameters():
            quantity = next((x for x in getattr(hints[p.field], "__metadata__", ()) if isinstance(x, Quantity)), None)
            unit = _bounds(p.unit.replace("1", "") if p.unit else "", quantity).lstrip(", ")
            parts.append(f"| `{p.key}` | {unit} | {_parameter_default(p.default)} | {p.doc} |")
        parts.append("")
    parts += ["## Papers", "", f"- {cls.paper}"]
    of_it = (TECHNIQUES.get(n) for n in TECHNIQUES if TECHNIQUES.built_in(n))
    for preset in (x for x in of_it if x.mechanism == name and x.name != name):
        costs = f"; costs: {preset.costs}" if preset.costs else ""
        parts.append(f"- `{preset.name}`: {preset.paper}{costs}")
    return "\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    """A docstring as Markdown: roles and double backquotes become code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.strip())
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n{rest}".rstrip()


def _parameter_default(value: object) -> str:
    return "required" if value is MISSING else "empty" if value in ("", None, ()) else f"`{value}`"


def field_tables() -> str:
    """The fields of every verb: name in Python and study files, option, type, default, meaning."""
    parts = [FIELDS_HEAD]
    for verb in VERBS:
        parts += [f"## `{verb}`", "", "| field | option | type | default | meaning |", "|---|---|---|---|---|"]
        for f in fields_of(verb).values():
            names = "" if f.name == "model" or f.type == "object" else ", ".join(f.options) or f"--{f.name}"
            option = f"`{names.replace('_', '-')}`" if names else ""
            default = "required" if f.default is REQUIRED else f"`{f.default!r}`" if f.default not in ("", ()) else ""
            kind = f.python.removesuffix(" | None").replace("|", "or")
            parts.append(f"| `{f.name}` | {option} | {kind} | {default} | {f.doc.replace('|', '/')} |")
        parts.append("")
    return "\n".join(parts)


def techniques() -> str:
    """Every built-in technique: what it changes, its paper, its parameters."""
    known = {name: TECHNIQUES.get(name) for name in TECHNIQUES if TECHNIQUES.built_in(name)}
    parts = [TECHNIQUES_HEAD, "| technique | layer | verbs | effect |", "|---|---|---|---|"]
    parts += [f"| [`{n}`](#{_place(n)}) | {c.layer} | {c.about()['verbs']} | {c.effect} |" for n, c in known.items()]
    for name, cls in known.items():
        page = cls.mechanism or name
        formula = "" if page == "settings" else f" [Formula and validity](mechanisms/{page}.md)."
        effect = f"{cls.effect[0].upper()}{cls.effect[1:]}"
        parts += ["", f"## `{name}`", "", f"{effect}. Source: {cls.paper}.{formula}", ""]
        if cls.parameters():
            parts += ["| parameter | unit | default | meaning |", "|---|---|---|---|"]
        for p in cls.parameters():
            unit = p.unit.replace("1", "") if p.unit else ""
            parts.append(f"| `{p.key}` | {unit} | {_parameter_default(p.default)} | {p.doc} |")
    return "\n".join(parts) + "\n"


def _place(heading: str) -> str:
    """What a heading is linked to by."""
    return re.sub(r"[^\w-]", "", heading)


def cli() -> str:
    """The verbs and their options, from the app itself."""
    with described(*EXAMPLES):
        text = app.generate_docs(output_format="markdown", heading_level=1)
    intro = """| exit code | means |
|---|---|
| `0` | answered, also when whoever reads the answer leaves early |
| `1` | the place failed: a full, read-only or broken disk, no memory, a closed stream (one `error:` line) |
| `2` | bad input (one `error:` line per problem on stderr), also a file that may not be read or written |
| `3` | the workload does not fit (the report is printed; stderr names the nearest change that fits) |
| `130` | interrupted by Ctrl-C |
| 128 + signal | ended by SIGTERM (`143`) or SIGHUP (`129`); half-written files go |

Numbers may be lists (`1,2,4`) and ranges (`1-256*2` doubles, `1-10+3` steps by three); formats and machines may be
lists. Every combination becomes a row, at most 100,000.

"""
    text = re.sub(r"\n## steelyard --install-completion\n.*?(?=\n## |\Z)", "", text, flags=re.DOTALL)
    text = re.sub(r"\(#steelyard-+install-completion\)", "(../guide/install.md)", text)
    text = text.replace("#steelyard-search_", "#steelyard-search-").replace("search_", "search ")
    head, mark, rest = text.partition("## Table of Contents")
    return (head + intro + mark + rest).rstrip() + "\n"


def json_form() -> str:
    """The fields of ``steelyard.estimate/2``, ``steelyard.simulate/1`` and what goes with them."""
    parts = [
        JSON_HEAD,
        *table(fields_of_form("estimate")),
        JSON_TAIL,
        SIMULATE_HEAD,
        *table(fields_of_form("simulate")),
    ]
    parts += [RECORDS_HEAD, *table(MEANINGS, "column"), PERFETTO_HEAD, "| event | args | meaning |", "|---|---|---|"]
    for (phase, name, args), words in EVENTS.items():
        parts.append(f"| `{phase}` {name} | {', '.join(f'`{x}`' for x in args)} | {words} |")
    parts += [REPLAY_HEAD, *table(fields_of_form("replay")), TRAIN_HEAD, *table(fields_of_form("train"))]
    return "\n".join(parts) + "\n"


def table(fields: Mapping[str, tuple[str, str]], first: str = "field") -> Iterator[str]:
    """A table of paths, types and meanings."""
    yield from (f"| {first} | type | meaning |", "|---|---|---|")
    for path, (kind, words) in fields.items():
        name = kind.replace("{}", "object").replace("?", " or null")
        yield f"| `{path}` | {name} | {words} |"


FIELDS_HEAD = """# Fields of a question

The words of `steelyard.estimate`, `simulate` and `plan` in Python, of study files, and of the command line. A scenario
holds them all: `sy.Scenario.of("simulate", "llama-3.1-8b", "h100_sxm", rate="4/s")` reads and checks them, and every
verb takes it in place of the words.
"""

TECHNIQUES_HEAD = """# Techniques

What `--with NAME[:value,param=value,switch]` takes; in Python `techniques=[...]`, in study files an axis `techniques`.
`explain` and studies take those of `estimate`. How they are priced is in [methods](../methods/serving_methods.md).
"""

JSON_HEAD = """# JSON

`steelyard estimate ... --json` and `Estimate.to_dict()` give one object, in SI units, with the fields below. A name
never changes its meaning within `steelyard.estimate/2`; fields may be added. Numbers are finite; what is not known is
`null`. `steelyard.report.schema.estimate_schema()` returns the same table as a JSON schema.

Several scenarios give `{"schema": "steelyard.estimates/1", "rows": [...]}`, whose rows are such objects; a scenario
that cannot run is `{"error": {"problems": [{"field", "message"}]}, "inputs": {...}}` instead.
"""

JSON_TAIL = """
`steelyard explain --json` gives `steelyard.explain/1`: for `prefill` and `decode` the kernels, each with `kernel`,
`kind`, `count`, `formula`, `einsum`, `flops`, `bytes`, `intensity_flop_per_byte`, `time_s`, `share`, `limit_s`,
`utilisation`, `bound`, `energy_j`, `engine`, `computed_in`, `weights_in`, `source` and `log_spread`; then `memory` and
`energy` with their formulas.
"""

SIMULATE_HEAD = """## `simulate`

`steelyard simulate ... --json` gives one object, in SI units, with the fields below; names keep their meaning within
`steelyard.simulate/1`. `statistics` is an object of `mean`, `p50`, `p90`, `p95` and `p99`, each `null` when no request
has the figure. `extras` is there only with speculation, adapters, lower cache levels, early exit, finetuning or
overlap, `groups` only with several answers per prompt. With `--csv` it is one row, nested names joined by dots.
"""

TRAIN_HEAD = """
## `train`

`steelyard train ... --json` and `TrainEstimate.to_dict()` give one object, in SI units, with the fields below; names
keep their meaning within `steelyard.train/1`. `plan --train --json` gives `steelyard.train-plan/1`: `winner` (such an
object, or `null`), `finalists` and `candidates` (rows of the best layout of every machine and number of devices),
`objective`, `by_s`, `budget_usd`, `sure_frac`, `reason`, `layouts`, `provenance`.
"""

RECORDS_HEAD = """
### Records

`--records FILE` writes one row per request in the order of the trace. What never came is empty (CSV) or `null`.
"""

PERFETTO_HEAD = f"""
### Perfetto

`--perfetto FILE` writes the Chrome trace format (`traceEvents`, times in us) with the first {MAX_STEPS:,} steps and
{MAX_REQUESTS:,} requests; `otherData.holds` says what is in it. Each replica is a process with its steps and counters;
beside it a process has its requests, nested as request, then queued, prompt and answer.
"""

REPLAY_HEAD = """
## `compare` with a measured run

`steelyard compare RUN --model ... --on ... --json` gives
"""

FILES_HEAD = """# Catalogue files

TOML first; JSON and YAML are read too. Numbers are SI, or text with a unit (`"80GiB"`, `"3.35TB/s"`, `"400Gb/s"`).
Fields without a default are required; an unknown field is refused with the nearest known one. A figure that was never
published is listed under `guess` with the reason it was chosen.
"""


def files() -> str:
    """The fields of catalogue files, from the dataclasses that read them."""
    parts = [FILES_HEAD]
    for title, cls, words in (
        (
            "Machine",
            Machine,
            "`machines/NAME.toml`, one device. Its fields stand at the top or in a `[machine]` table.",
        ),
        ("Compute", Compute, "`[[machine.compute]]`: an arithmetic engine."),
        ("Memory", Memory, "`[[machine.memory]]`: a memory level; exactly one has no `inside` and holds the model."),
        ("Link", Link, "`[[machine.link]]`: a way out of the device."),
        ("Network", Network, "`networks/*.toml`, `[[network]]`."),
        ("Node", Node, "`nodes/*.toml`, `[[node]]`: devices that share a chassis."),
        ("Price", Price, "`prices/*.toml`, `[[price]]`; `provider_class` is written `class` in the file."),
        ("Format", Format, "`formats/formats.toml`, `[[format]]`."),
        ("Engine", Engine, "`engines/*.toml`, `[[engine]]`."),
        ("Limits of an engine", Limits, "Entries of its `limits`."),
        ("Kernels of an engine", KernelSpeed, "Entries of its `kernels`, where they differ from the benchmarked ones."),
        ("Scheduler", Rules, "`engines/*.toml`, `[[scheduler]]`."),
        ("Kind of machine", Kind, "`classes/*.toml`, `[[kind]]`."),
        ("Software stack", Stack, "`classes/*.toml`, `[[stack]]`: what `launch` of a machine names."),
        ("Family", Family, "`classes/*.toml`, `[[family]]`."),
    ):
        parts += [f"## {title}", "", words, "", "| field | unit or values | default | meaning |", "|---|---|---|---|"]
        parts += [f"| `{name}` | {unit} | {default} | {doc} |" for name, unit, default, doc in rows(cls)]
        parts.append("")
    return "\n".join(parts)


def rows(cls: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """``(field, unit or values, default, meaning)`` of every field of a dataclass."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        quantity, doc, kind = _described(hints[field.name])
        unit = quantity.unit if quantity and quantity.unit != "1" else kind
        yield field.name, _bounds(unit, quantity), _default(field), doc or (quantity.doc if quantity else "")


def _described(hint: Any) -> tuple[Quantity | None, str, str]:
    """``(quantity, meaning, kind)`` in an annotation, also inside a mapping."""
    quantity, doc = None, ""
    for item in (hint, *get_args(hint)):
        for note in getattr(item, "__metadata__", ()):
            if isinstance(note, Quantity):
                quantity = note
            elif isinstance(note, str):
                doc = note
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return quantity, doc, _kind(plain)


def _kind(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return ", ".join(f"`{x}`" for x in get_args(hint) if x)
    if origin is tuple:
        inner = get_args(hint)[0]
        known = inner is str or get_origin(inner) is Literal
        return f"list of {_kind(inner) if known else inner.__name__}"
    if origin is not None and issubclass(origin, Mapping):
        return "table"
    if isinstance(hint, UnionType):
        return " or ".join("nothing" if x is NoneType else _kind(x) for x in get_args(hint))
    names = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false"}
    name = str(getattr(hint, "__name__", hint))
    return names.get(name, name)


def _bounds(unit: str, quantity: Quantity | None) -> str:
    if quantity is None:
        return unit
    limits = [f"above {quantity.gt:g}"] if quantity.gt is not None else []
    limits += [f"at least {quantity.ge:g}"] if quantity.ge is not None else []
    limits += [f"at most {quantity.le:g}"] if quantity.le is not None else []
    return f"{unit}, {' and '.join(limits)}" if limits else unit


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`" if field.default not in ("", ()) else "empty"
    return "empty" if field.default_factory is not MISSING else "required"


if __name__ == "__main__":
    written = {STUB: stub(), ACCURACY: accuracy()}
    for path, text in {**{HERE / name: text for name, text in pages().items()}, **written}.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
