"""Validation: how far predictions were off, by source, machine, model or engine; as the pages of validation say it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from steelyard.errors import UnknownName
from steelyard.machine.catalogue import is_catalogued
from steelyard.page.measured import opened
from steelyard.page.screen import Screen, Shown, Tell, with_addresses

__all__ = ["SCREEN"]

_FILE = Path(__file__).parents[1] / "accuracy.json"
#: What rows are listed by.
AXES = ("source", "machine", "model", "engine")
#: Engines by a word of the names of sources, tables and rows.
ENGINES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "llamacpp": "llama.cpp",
    "ktransformers": "KTransformers",
    "timm": "PyTorch, timm",
    "onnxruntime": "ONNX Runtime",
    "tflite": "LiteRT",
    "qnn": "QNN",
    "hailo": "HailoRT",
    "rknn": "RKNN",
    "megatron": "Megatron-LM",
    "torchtitan": "TorchTitan",
    "maxtext": "MaxText",
    "mosaic": "LLM Foundry",
}
#: Ends of names of sources of kernels, whose rows are of no model.
KERNELS = ("_ops", "_comm", "_kernels", "_profiling")
#: Rows that a picture shows.
_DRAWN = 40


@cache
def _measured() -> Mapping[str, Any]:
    """What the pages of validation say."""
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    """The rows of the index, over all machines and models."""
    found = _measured()
    return tuple({"machine": "*", "model": "*", **dict(zip(found["heads"], row, strict=True))} for row in found["rows"])


@cache
def _each() -> tuple[dict[str, Any], ...]:
    """The rows of one machine or one model."""
    found = _measured()
    return tuple(dict(zip(found["finer"], row, strict=True)) for row in found["each"])


def _by(axis: str) -> dict[str, list[dict[str, Any]]]:
    """Every row that is of one entry of an axis, by that entry."""
    found: dict[str, list[dict[str, Any]]] = {}
    if axis == "engine":
        whole = [r for r in _each() if r["machine"] == "*" and _engine(r["model"])]
        apart = {tuple(r[n] for n in ("source", "table", "what", "which")) for r in whole}
        whole += [r for r in _rows() if tuple(r[n] for n in ("source", "table", "what", "which")) not in apart]
    else:
        whole = [*(_rows() if axis == "source" else _each())]
    for row in whole:
        name = _run_by(row) if axis == "engine" else row[axis]
        if name != "*" and not (axis == "model" and row["source"].endswith(KERNELS)):
            found.setdefault(name, []).append(row)
    return found


def _run_by(row: Mapping[str, Any]) -> str:
    """The engine of a row; ``*``: not known."""
    return next(filter(None, (_engine(row[n]) for n in ("model", "what", "table", "source"))), "*")


def _engine(text: str) -> str:
    """The one engine that a name speaks of; empty: none, or several."""
    said = {name for word, name in ENGINES.items() if word in text.lower().replace(".", "")}
    return said.pop() if len(said) == 1 else ""


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """A line for every source, machine, model or engine, or all rows of one; those whose words hold a text."""
    SCREEN.refuse_unknown(words)
    axis, name, text = (str(words.get(n, usual)) for n, usual in (("by", "source"), ("name", ""), ("q", "")))
    if axis not in AXES:
        raise UnknownName("by", axis, AXES)
    groups = _by(axis)
    if name and name not in groups:
        raise UnknownName(axis, name, groups)
    listed = [r for r in groups[name] if _holds(r, text)] if name else []
    sums = [s for n, rows in groups.items() if not name and (s := _sum(axis, n, [r for r in rows if _holds(r, text)]))]
    rows = listed or sums
    document = {"schema": "steelyard.accuracy/2", "by": axis, "name": name, "q": text, "rows": rows}
    view = {
        "title": name or f"Accuracy by {axis}",
        "by": axis,
        "axes": AXES,
        "names": sorted(groups, key=str.lower),
        "name": name,
        "q": text,
        "rows": [{**r, "open": opened(*(r[n] for n in ("source", "table", "machine", "model")))} for r in listed],
        "sums": [{**s, "open": _address(axis, s["name"])} for s in sums],
        "on": name if axis == "machine" and is_catalogued(name) else "",
    }
    figures = _figures(axis, listed) if name else _figures_of_sums(axis, sums)
    return Shown(document, rows, figures, view)


def _holds(row: Mapping[str, Any], text: str) -> bool:
    said = " ".join(str(row[n]) for n in ("source", "table", "what", "machine", "model", "which"))
    return text.lower() in said.lower()


def _address(axis: str, name: str) -> str:
    return f"/validation?{urlencode({'by': axis, 'name': name})}"


def _sum(axis: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """All rows of one entry in a line: means of their medians and shares, weighted by measured rows."""
    if not rows:
        return None

    def mean(of: str) -> float | None:
        known = [(r[of], r["rows"]) for r in rows if r[of] is not None]
        return sum(v * n for v, n in known) / sum(n for _, n in known) if known else None

    found: dict[str, Any] = {"name": name, "sources": len({r["source"] for r in rows}), "figures": len(rows)}
    found["rows"] = sum(r["rows"] for r in rows)
    return found | {n: None if (v := mean(n)) is None else round(v, 1) for n in ("covered", "median", "p90", "inside")}


def _figures(axis: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one entry, of many those with the most measured rows."""
    groups: dict[str, tuple[int, float, float]] = {}
    known = _known(rows)
    most = set(sorted(range(len(known)), key=lambda i: -known[i]["rows"])[:_DRAWN])
    for r in (r for i, r in enumerate(known) if i in most):
        name = " ".join(x for x in ("" if axis == "source" else r["source"], r["table"], r["what"]) if x)
        groups[f"{name} ({r['which']})"] = (int(r["rows"]), r["median"] / 100, r["p90"] / 100)
    few = f", the {_DRAWN} most measured" if len(known) > _DRAWN else ""
    return _drawn(groups, f"Median error, and within what 90 % of the rows lie{few}")


def _figures_of_sums(axis: str, sums: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries with the most measured rows; each opens at a click."""
    most = sorted(_known(sums), key=lambda s: -s["rows"])[:_DRAWN]
    groups = {s["name"]: (int(s["rows"]), s["median"] / 100, s["p90"] / 100) for s in most}
    found = _drawn(groups, f"Median error by {axis}" + (f", the {_DRAWN} most measured" if len(most) == _DRAWN else ""))
    for figure in found:
        places = {}
        for series in figure["option"]["series"]:
            for point in series.get("data", ()):
                label = point.get("words", "") if isinstance(point, dict) else ""
                places[label] = _address(axis, label.partition("\n")[0].rpartition(" (")[0])
        with_addresses(figure, places)
    return found


def _known(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [r for r in rows if r["median"] is not None and r["p90"] is not None]


def _drawn(groups: Mapping[str, tuple[int, float, float]], title: str) -> list[dict[str, Any]]:
    from steelyard.report.figures.beside import accuracy

    return [accuracy(groups, title=title).to_dict()] if groups else []


SCREEN = Screen(
    name="validation",
    title="Validation",
    says="How far predictions were off, by source of measurements, machine, model and engine.",
    ask=ask,
    parameters={
        "by": "source, machine, model or engine",
        "name": "one of them: all its rows",
        "q": "text that the rows must hold",
    },
)
