"""Benchmarks without a server: everything sent at once, or one batch again and again.

- ``vllm bench throughput``: the line and totals it prints, and ``--output-json``, which has no lengths;
- ``vllm bench latency``: the lines it prints, and ``--output-json``; neither has lengths or the size of the batch,
  which are taken from the command or the ``Namespace(...)`` where these stand in the text;
- SGLang's ``bench_one_batch`` and ``bench_one_batch_server``: a line of JSON for every batch (``FILE#2``), and
  ``bench_offline_throughput --result-filename``.

All come from the public source and documentation of these tools. A log of one batch has :data:`ONE_BATCH` among what it
says: the requests of the batch, 0 where it does not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import read_text
from steelyard.errors import InputError, show
from steelyard.traffic.logs import one_of
from steelyard.traffic.readers import Head, Recorded, real_number
from steelyard.traffic.summaries import MAX_REQUESTS, MAX_SUMMARY, equal_requests
from steelyard.traffic.trace import LENGTHS, MAX_TOKENS

__all__ = ["ONE_BATCH", "offline"]

#: What a log of one batch says of itself: its requests, 0 where it does not say.
ONE_BATCH = "one_batch"
_RATE = re.compile(
    r"Throughput:\s*(?P<requests>[\d.,]+) requests/s(?:,\s*(?P<total>[\d.,]+) (?:total )?tokens/s)?"
    r"(?:,\s*(?P<output>[\d.,]+) output tokens/s)?"
)
_LATENCY = re.compile(r"^\s*(Avg|\d+%\s+percentile) latency: ([\d.eE+-]+) seconds", re.MULTILINE)
_TOTAL = re.compile(r"Total num (prompt|output) tokens:\s*([\d,]+)")
#: Keys that tell the results in JSON apart.
_KEYS = {
    "throughput": ("elapsed_time", "num_requests", "total_num_tokens"),
    "latency": ("avg_latency", "latencies"),
    "one batch": ("batch_size", "input_len", "output_len"),
    "offline": ("successful_requests", "total_latency", "total_input_tokens"),
}


class Offline:
    """A rate of everything sent at once, or the time of one batch."""

    title = "vllm bench throughput and latency, SGLang's bench_one_batch and bench_offline_throughput"

    def recognises(self, head: Head) -> bool:
        """The lines these tools print, or their keys."""
        if head.text.lstrip()[:1] in ("{", "["):
            return _kind(head.text) != ""
        return any(_RATE.search(text) or _LATENCY.search(text) for text in (head.text, head.tail))

    def read(self, path: Path, select: str) -> Recorded:
        """Equal requests with the rate or the time that was measured."""
        text = read_text(path, MAX_SUMMARY, "trace")
        if text.lstrip()[:1] in ("{", "["):
            data, notes = one_of(path, select)
            found = _in_json(path, data, _kind(json.dumps(list(data))))
            return replace(found, notes=(*notes, *found.notes))
        if select:
            raise InputError(f"{path.name} holds one benchmark; {select!r} is not in it", field="trace")
        return _rate(path, text) if _RATE.search(text) else _latency(path, text)


def _kind(text: str) -> str:
    return next((kind for kind, keys in _KEYS.items() if all(f'"{key}"' in text for key in keys)), "")


def _in_json(path: Path, data: Mapping[str, Any], kind: str) -> Recorded:
    def number(*names: str) -> float:
        return next((real_number(data[n]) for n in names if n in data), np.nan)

    if kind == "throughput":
        said = {"engine": "vllm", "duration": number("elapsed_time")}
        return _lengths(path, number("num_requests"), {}, number("total_num_tokens"), said)
    if kind == "latency":
        shares = data.get("percentiles")
        shares = shares if isinstance(shares, Mapping) else {}
        whole = {"mean": number("avg_latency"), **{f"p{share}": real_number(v) for share, v in shares.items()}}
        return _batch(path, 0, {}, {"e2e_s": whole}, {"engine": "vllm"})
    if kind == "one batch":
        batch, prompt, output = (number(name) for name in _KEYS[kind])
        found = {"ttft_s": number("prefill_latency"), "tpot_s": number("median_decode_latency")}
        times = {name: {"mean": value} for name, value in found.items()}
        times["e2e_s"] = {"mean": number("total_latency", "latency")}
        return _batch(path, batch, dict(zip(LENGTHS, (prompt, output), strict=True)), times, {"engine": "sglang"})
    if kind == "offline":
        count, seconds, prompts, outputs = (number(n) for n in (*_KEYS[kind], "total_output_tokens"))
        said = {"engine": "sglang", "request_rate": "inf", "duration": seconds}
        return equal_requests(path.name, count, prompts, outputs, {}, said=said)
    raise InputError(f"{path.name}: expected the result of a benchmark, got keys {show(list(data))}", field="trace")


def _number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return np.nan


def _argument(text: str, name: str) -> str:
    """The value of an argument in a command line or a ``Namespace(...)`` of the text; empty = not there."""
    flag = name.replace("_", "-")
    found = re.search(rf"(?:\b{name}=|--{flag}[ =])\s*['\"]?([^\s,'\")\\]+)", text)
    return found.group(1) if found else ""


def _given(text: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Lengths and names by the arguments in the text."""
    sizes = {
        name: _number(_argument(text, words)) for name, words in zip(LENGTHS, ("input_len", "output_len"), strict=True)
    }
    return {k: v for k, v in sizes.items() if v >= 1}, {"engine": "vllm", "model": _argument(text, "model")}


def _rate(path: Path, text: str) -> Recorded:
    """What ``vllm bench throughput`` prints."""
    match = list(_RATE.finditer(text))[-1]
    requests, total, output = (_number(match[k] or "") for k in ("requests", "total", "output"))
    totals = {side: _number(value) for side, value in _TOTAL.findall(text)}
    sizes, said = _given(text)
    tokens = totals.get("prompt", np.nan) + totals.get("output", np.nan)
    count = _number(_argument(text, "num_prompts"))
    if not np.isfinite(count) and requests > 0:
        count = float(np.rint(tokens / total * requests)) if total > 0 else np.nan
    if not np.isfinite(count):
        words = f"{path.name} does not say how many requests were sent; keep the line of the command (--num-prompts)"
        raise InputError(words, field="trace")
    if np.isfinite(tokens) and count > 0:
        sizes = dict(zip(LENGTHS, (totals["prompt"] / count, totals["output"] / count), strict=True))
    elif requests > 0 and np.isfinite(output):
        sizes = dict(zip(LENGTHS, ((total - output) / requests, output / requests), strict=True))
    each = total / requests if requests > 0 else np.nan
    return _lengths(path, count, sizes, each * count, {**said, "duration": count / requests if requests > 0 else None})


def _latency(path: Path, text: str) -> Recorded:
    """What ``vllm bench latency`` prints."""
    times = {}
    for name, value in _LATENCY.findall(text):
        times["mean" if name == "Avg" else f"p{name.partition('%')[0]}"] = _number(value)
    sizes, said = _given(text)
    return _batch(path, _number(_argument(text, "batch_size")), sizes, {"e2e_s": times}, said)


def _batch(
    path: Path, batch: float, sizes: Mapping[str, float], times: Mapping[str, Mapping[str, float]], said: dict[str, Any]
) -> Recorded:
    """The requests of one batch, one where their number is not said."""
    summary = {name: {k: v for k, v in found.items() if np.isfinite(v)} for name, found in times.items()}
    n = int(batch) if 1 <= batch <= MAX_REQUESTS else 0
    whole = summary["e2e_s"].get("mean")
    found = _lengths(path, max(1, n), sizes, np.nan, {**said, ONE_BATCH: n, "request_rate": "inf"})
    return replace(found, summary={k: v for k, v in summary.items() if v}, said={**found.said, "duration": whole})


def _lengths(path: Path, count: float, sizes: Mapping[str, float], tokens: float, said: dict[str, Any]) -> Recorded:
    """``count`` equal requests, those lengths lacking that no word of the log gives.

    Args:
        path: for errors.
        count: requests.
        sizes: the lengths that are known.
        tokens: of all prompts and answers, NaN = not known.
        said: what else the log says.
    """
    if not 1 <= count <= MAX_REQUESTS:
        raise InputError(f"{path.name} does not say how many requests were sent (1 to {MAX_REQUESTS:,})", field="trace")
    n = int(count)
    known = {k: round(v) for k, v in sizes.items() if 0.5 <= v <= MAX_TOKENS}
    columns: dict[str, Any] = {
        k: np.full(n, max(1, known.get(k, 0)) if k in known else 0, dtype=np.int64) for k in LENGTHS
    }
    return Recorded(
        **columns,
        lacking=tuple(k for k in LENGTHS if k not in known),
        tokens_each=tokens / n if np.isfinite(tokens) else 0.0,
        said={"request_rate": "inf", **said},
        notes=(f"{n:,} equal request{'s' if n > 1 else ''}: {path.name} has no entry per request",),
    )


offline = Offline()
