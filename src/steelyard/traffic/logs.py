"""Logs of benchmark clients as traffic, with the times they measured.

- ``vllm``: the JSON of ``vllm bench serve --save-result``, appended ones too (the last, or ``FILE#2``), and
  SGLang's; with ``--save-detailed`` ``input_lens``, ``output_lens``, ``ttfts``, ``itls`` and, in newer versions,
  ``start_times`` and ``latencies``, all in s (vllm/benchmarks/serve.py of 2026). A log without ``start_times`` has no
  arrivals. A request whose output length is 0 has failed.
- ``aiperf``: ``profile_export.jsonl``, one record per line with ``metadata.request_start_ns`` and
  ``metrics.NAME.value`` (ai-dynamo/aiperf, docs of 0.8 to 0.11).
- ``guidellm``: ``benchmarks.json``; ``benchmarks[].requests.successful[]`` with ``prompt_tokens``, ``output_tokens``,
  ``time_to_first_token_ms``, ``request_latency`` and ``request_start_time``, earlier ``start_time``
  (vllm-project/guidellm, schemas of 0.2 to 0.5). A file with several benchmarks needs ``FILE#NUMBER``, from 1.

All three come from the public documentation and source of these tools; a field that is missing is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import open_lines
from steelyard.errors import InputError, show
from steelyard.traffic.readers import (
    MAX_BAD,
    MAX_BYTES,
    MAX_JSON_LINES,
    Head,
    Recorded,
    json_text,
    parsed,
    read_json,
    real_number,
    refuse_rows,
    whole_numbers,
)
from steelyard.traffic.summaries import equal_requests, statistics_of
from steelyard.traffic.trace import MAX_TOKENS, Floats

__all__ = ["Rows", "aiperf", "guidellm", "one_of", "vllm"]


def _results(text: str, name: str) -> list[Any]:
    """Every result of a text: one, a list of them, or one object after another."""
    found: list[Any] = []
    decoder, at = json.JSONDecoder(), 0
    while at < len(text) and text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        found += value if isinstance(value, list) and not found else [value]
        if len(found) > MAX_BAD:
            raise InputError(f"{name} holds more than {MAX_BAD:,} results", field="trace")
    return found


def one_of(path: Path, select: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The result in a file, or one of several that were appended to it, the last unless another is named; with a note
    that says so."""
    text = json_text(path)
    found = parsed(path, lambda: _results(text, path.name))
    number = int(select) if select.isdecimal() and len(select) < 6 else 0
    if select and not 1 <= number <= len(found):
        raise InputError(f"{path.name} holds results 1 to {len(found)}; {show(select)} is none of them", field="trace")
    if not found or not isinstance(found[number - 1], Mapping):
        raise InputError(f"{path.name}: expected the JSON object of a benchmark", field="trace")
    others = f"{path.name} holds {len(found)} results; this is the last, {path.name}#1 the first"
    return found[number - 1], (others,) if not select and len(found) > 1 else ()


class Rows:
    """Collects requests one by one, with every problem and every failed request."""

    def __init__(self) -> None:
        self.prompts: list[int] = []
        self.outputs: list[int] = []
        self.times: dict[str, list[float]] = {k: [] for k in ("arrived_at", "ttft_s", "tpot_s", "e2e_s")}
        self.problems: list[tuple[int, str]] = []
        self.failed = 0

    def add(self, row: int, prompt: Any, output: Any, names: tuple[str, str], **times: float) -> None:
        """One request; times in s, NaN = not measured."""
        (sent, first), (generated, second) = whole_numbers(prompt, names[0]), whole_numbers(output, names[1])
        if first or second:
            self.problems += [(row, words) for words in (first, second) if words]
            return
        self.prompts.append(sent)
        self.outputs.append(generated)
        for name, values in self.times.items():
            values.append(times.get(name, np.nan))

    def recorded(self, file: str, unit: str) -> Recorded:
        """Everything collected. Raises :class:`InputError` with the rows that could not be read."""
        refuse_rows(self.problems, file, unit)
        arrays = {name: np.array(values) for name, values in self.times.items()}

        def known(name: str) -> Floats | None:
            return arrays[name] if np.isfinite(arrays[name]).any() else None

        at = arrays["arrived_at"]
        rejected = (f"{self.failed:,} failed or cancelled requests dropped",) if self.failed else ()
        return Recorded(
            np.array(self.prompts, dtype=np.int64),
            np.array(self.outputs, dtype=np.int64),
            at if at.size and np.isfinite(at).all() else None,
            ttft_s=known("ttft_s"),
            tpot_s=known("tpot_s"),
            e2e_s=known("e2e_s"),
            rejected=rejected,
        )


class VllmBench:
    """The JSON of ``vllm bench serve``."""

    title = "results of vllm bench serve and SGLang's bench_serving, with or without an entry per request"

    def recognises(self, head: Head) -> bool:
        """An object that speaks of throughput and lengths the way vLLM does."""
        text = head.text
        return text.lstrip()[:1] == "{" and (
            '"input_lens"' in text or ('"request_throughput"' in text and '"total_input_tokens"' in text)
        )

    def read(self, path: Path, select: str) -> Recorded:
        """The requests with TTFT, TPOT and end-to-end times."""
        data, which = one_of(path, select)
        found = self._requests(path, data)
        return replace(found, notes=(*which, *found.notes))

    @staticmethod
    def _requests(path: Path, data: Mapping[str, Any]) -> Recorded:
        limit = data.get("max_concurrency")
        limit = limit if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 else 0
        said = {
            "engine": data.get("backend"),
            "model": data.get("model_id"),
            "request_rate": data.get("request_rate"),
            "duration": data.get("duration"),
        }
        if "input_lens" not in data or "output_lens" not in data:
            prompts, outputs = (real_number(data.get(k)) for k in ("total_input_tokens", "total_output_tokens"))
            summary = statistics_of(data)
            count = data.get("completed")
            if count is None:
                message = "has no totals and no input_lens and output_lens; run vllm bench serve with --save-detailed"
                raise InputError(f"{path.name} {message}", field="trace")
            return equal_requests(path.name, count, prompts, outputs, summary, concurrency=limit, said=said)
        lists = {k: data.get(k) for k in ("input_lens", "output_lens", "ttfts", "itls", "start_times", "latencies")}
        n = len(data["input_lens"]) if isinstance(data["input_lens"], list) else -1
        for name, values in lists.items():
            if (values is not None or name in data) and (not isinstance(values, list) or len(values) != n):
                raise InputError(f"{path.name}: {name}: expected a list of {max(n, 0):,} entries", field="trace")

        def entry(name: str, i: int) -> float:
            values = lists[name]
            return real_number(values[i]) if values else np.nan

        rows = Rows()
        for i in range(n):
            if data["output_lens"][i] == 0:
                rows.failed += 1
                continue
            ttft, gaps, e2e = entry("ttfts", i), (lists["itls"] or [None] * n)[i], entry("latencies", i)
            if np.isnan(e2e) and isinstance(gaps, list):
                e2e = ttft + sum(real_number(g) for g in gaps)
            osl = data["output_lens"][i]
            more = isinstance(osl, int) and 1 < osl <= MAX_TOKENS
            rows.add(
                i + 1,
                data["input_lens"][i],
                osl,
                ("input_lens", "output_lens"),
                arrived_at=entry("start_times", i),
                ttft_s=ttft,
                e2e_s=e2e,
                tpot_s=(e2e - ttft) / (osl - 1) if more else np.nan,
            )
        return replace(rows.recorded(path.name, "request"), concurrency=limit, said=said, summary=statistics_of(data))


class AiPerf:
    """``profile_export.jsonl`` of aiperf."""

    title = "aiperf profile_export.jsonl (0.2 to 0.11)"

    def recognises(self, head: Head) -> bool:
        """Records with metadata and metrics."""
        return {"metadata", "metrics"} <= set(head.columns)

    def read(self, path: Path, select: str) -> Recorded:
        """The requests of the profiling phase."""
        if select:
            raise InputError(f"{path.name} holds one benchmark; {select!r} is not in it", field="trace")
        rows = Rows()
        with open_lines(path, MAX_JSON_LINES, MAX_BYTES, "trace", errors="replace") as stream:
            for line, text in enumerate(stream, 1):
                if not text.strip():
                    continue
                if len(rows.problems) >= MAX_BAD:
                    break
                try:
                    record = json.loads(text)
                    meta, metrics = record["metadata"], record["metrics"]
                    failed = bool(record.get("error")) or bool(meta.get("was_cancelled"))
                    warmup = meta.get("benchmark_phase", "profiling") != "profiling"
                    start = meta.get("request_start_ns")
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    rows.problems.append((line, "not a record with metadata and metrics"))
                    continue
                if warmup:
                    continue
                if failed or not isinstance(metrics, Mapping):
                    rows.failed += 1
                    continue
                rows.add(
                    line,
                    _metric(metrics, "input_sequence_length", ("tokens",))[0],
                    _metric(metrics, "output_sequence_length", ("tokens",))[0],
                    ("input_sequence_length", "output_sequence_length"),
                    arrived_at=real_number(start) * 1e-9,
                    ttft_s=_seconds(metrics, "time_to_first_token"),
                    tpot_s=_seconds(metrics, "inter_token_latency"),
                    e2e_s=_seconds(metrics, "request_latency"),
                )
        return rows.recorded(path.name, "line")


def _metric(metrics: Mapping[str, Any], name: str, units: Sequence[str]) -> tuple[Any, str]:
    found = metrics.get(name)
    if not isinstance(found, Mapping):
        return None, units[0]
    return found.get("value"), str(found.get("unit", units[0]))


def _seconds(metrics: Mapping[str, Any], name: str) -> float:
    value, unit = _metric(metrics, name, ("ms",))
    return real_number(value) * {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}.get(unit, np.nan)


class GuideLLM:
    """``benchmarks.json`` of guidellm."""

    title = "guidellm benchmarks.json (0.2 and later)"

    def recognises(self, head: Head) -> bool:
        """An object with a list of benchmarks."""
        return head.text.lstrip()[:1] == "{" and '"benchmarks"' in head.text

    def read(self, path: Path, select: str) -> Recorded:
        """The successful requests of one benchmark of the file."""
        data = read_json(path)
        runs = data.get("benchmarks") if isinstance(data, Mapping) else None
        if not isinstance(runs, list) or not runs:
            raise InputError(f"{path.name} has no benchmarks", field="trace")
        if not select and len(runs) > 1:
            raise InputError(
                f"{path.name} holds {len(runs)} benchmarks; choose one, {path.name}#1 to #{len(runs)}", field="trace"
            )
        if select and not (select.isdecimal() and 1 <= int(select) <= len(runs)):
            raise InputError(
                f"{path.name} holds benchmarks 1 to {len(runs)}; {select!r} is none of them", field="trace"
            )
        run = runs[int(select or 1) - 1]
        requests = run.get("requests") if isinstance(run, Mapping) else None
        if not isinstance(requests, Mapping) or not isinstance(requests.get("successful"), list):
            raise InputError(f"{path.name}: the benchmark has no requests.successful", field="trace")
        rows = Rows()
        for k in ("errored", "incomplete"):
            others = requests.get(k) or []
            if not isinstance(others, list):
                raise InputError(f"{path.name}: requests.{k}: expected a list, got {others!r}", field="trace")
            rows.failed += len(others)
        for i, request in enumerate(requests["successful"], 1):
            if not isinstance(request, Mapping):
                rows.problems.append((i, "expected an object"))
                continue
            start = real_number(request.get("request_start_time", request.get("start_time")))
            end = real_number(request.get("request_end_time", request.get("end_time")))
            e2e = real_number(request.get("request_latency"))
            rows.add(
                i,
                request.get("prompt_tokens"),
                request.get("output_tokens"),
                ("prompt_tokens", "output_tokens"),
                arrived_at=start,
                ttft_s=real_number(request.get("time_to_first_token_ms")) * 1e-3,
                tpot_s=real_number(request.get("inter_token_latency_ms")) * 1e-3,
                e2e_s=e2e if np.isfinite(e2e) else end - start,
            )
        return rows.recorded(path.name, "request")


vllm = VllmBench()
aiperf = AiPerf()
guidellm = GuideLLM()
