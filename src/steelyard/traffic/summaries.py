"""What benchmark clients print at the end, and results without one entry per request: totals, means and percentiles.

- ``bench_text``: the table that ``vllm bench serve`` and SGLang's ``bench_serving`` print;
- ``genai_perf``: ``profile_export_genai_perf.json`` and ``profile_export_aiperf.json``, a mapping of metrics with
  ``avg``, ``p50`` ... and a unit (triton-inference-server/perf_analyzer, ai-dynamo/aiperf).

The requests are then so many equal ones of the mean lengths. Sources: the documentation and output of these tools.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import read_text
from steelyard.errors import InputError, show
from steelyard.traffic.readers import SECONDS, Head, Recorded, read_json, real_number
from steelyard.traffic.trace import MAX_TOKENS

__all__ = ["MAX_REQUESTS", "MAX_SUMMARY", "bench_text", "equal_requests", "genai_perf", "statistics_of"]

#: Largest summary, bytes, and most requests one may speak of.
MAX_SUMMARY, MAX_REQUESTS = 16 * 2**20, 2_000_000
#: Statistics by the words of the tools.
_STATISTICS = {"mean": "mean", "avg": "mean", "median": "p50", **{f"p{p}": f"p{p}" for p in (50, 75, 90, 95, 99)}}
_HEADING = re.compile(r"(Serving|Offline Throughput) Benchmark Result")
_METRICS = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s", "e2e_latency": "e2e_s"}


def equal_requests(
    file: str,
    count: Any,
    prompt_tokens: float,
    output_tokens: float,
    summary: Mapping[str, Mapping[str, float]],
    *,
    concurrency: int = 0,
    said: Mapping[str, Any] | None = None,
) -> Recorded:
    """Requests of the mean lengths, with the statistics a summary has.

    Args:
        file: name, for errors.
        count: requests that succeeded.
        prompt_tokens, output_tokens: of all of them.
        summary: time -> statistic -> s.
        concurrency: requests in flight at most, 0 = not said.
        said: what else the log says of the run: ``engine``, ``model``, ``request_rate``, ``duration``.

    Raises:
        InputError: no count or no tokens.
    """
    n = int(count) if isinstance(count, int | float) and 1 <= count <= MAX_REQUESTS else 0
    if not n:
        raise InputError(f"{file} does not say how many requests succeeded (1 to {MAX_REQUESTS:,})", field="trace")
    lengths = []
    for name, total in (("prompt", prompt_tokens), ("output", output_tokens)):
        mean = total / n
        if not 0.5 <= mean <= MAX_TOKENS:
            raise InputError(f"{file} does not say how many {name} tokens its requests have", field="trace")
        lengths.append(np.full(n, max(1, round(mean)), dtype=np.int64))
    return Recorded(
        lengths[0],
        lengths[1],
        concurrency=concurrency,
        summary={k: v for k, v in summary.items() if v},
        said=said or {},
        notes=(f"{n:,} equal requests of the mean lengths: {file} has no entry per request",),
    )


def statistics_of(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """``mean_ttft_ms``, ``p99_tpot_ms`` ... of a result, by time and statistic, s."""
    found: dict[str, dict[str, float]] = {}
    for key, value in data.items():
        word, _, rest = str(key).partition("_")
        metric = _METRICS.get(rest.removesuffix("_ms"))
        number = real_number(value)
        if rest.endswith("_ms") and word in _STATISTICS and metric and np.isfinite(number):
            found.setdefault(metric, {})[_STATISTICS[word]] = number * 1e-3
    return found


def _number(text: str) -> float:
    """A printed number, with thousands apart or not; NaN for anything else."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("nan")


class BenchText:
    """The printed table of a serving benchmark."""

    title = "printed summary of vllm bench serve or SGLang's bench_serving and bench_offline_throughput"

    def recognises(self, head: Head) -> bool:
        """Its heading."""
        return head.text.lstrip()[:1] not in ("{", "[") and any(_HEADING.search(x) for x in (head.text, head.tail))

    def read(self, path: Path, select: str) -> Recorded:
        """Totals, means and percentiles of the last table in the text."""
        text = read_text(path, MAX_SUMMARY, "trace")
        heading = list(_HEADING.finditer(text))[-1]
        table, offline = text[heading.start() :], heading[1] != "Serving"
        values = {
            re.sub(r"\s+", " ", name).strip().lower(): value.strip()
            for name, value in re.findall(r"^[ \t]*([A-Za-z][^:\n]*?):[ \t]+(\S[^\n]*)$", table, re.MULTILINE)
        }

        def number(*names: str) -> float:
            return next((_number(values[n]) for n in names if n in values), np.nan)

        statistics: dict[str, float] = {}
        for name, value in values.items():
            if match := re.fullmatch(r"(mean|median|p\d+) (ttft|tpot|e2el|e2e latency) \(ms\)", name):
                statistics[f"{match.group(1)}_{match.group(2).replace(' ', '_')}_ms"] = _number(value)
        limit = number("maximum request concurrency", "max request concurrency")
        said = {
            "engine": "sglang" if offline else values.get("backend", ""),
            "request_rate": "inf"
            if offline
            else values.get("request rate configured (rps)", values.get("traffic request rate", "")),
            "duration": number("benchmark duration (s)"),
        }
        return equal_requests(
            path.name,
            number("successful requests"),
            number("total input tokens", "total input text tokens"),
            number("total generated tokens"),
            statistics_of(statistics),
            concurrency=int(limit) if np.isfinite(limit) and limit >= 1 else 0,
            said=said,
        )


def _genai_csv(text: str) -> dict[str, dict[str, Any]]:
    """The blocks ``Metric,avg,min,...`` and ``Metric,Value`` of a summary in CSV, as its JSON has them."""
    found: dict[str, dict[str, Any]] = {}
    head: list[str] = []
    for row in csv.reader(text.splitlines()):
        if row[:1] == ["Metric"]:
            head = [name.strip().lower() for name in row]
        elif head and len(row) == len(head):
            name, _, unit = row[0].partition("(")
            key = "_".join(name.lower().split())
            values = {"avg" if n == "value" else n: _number(v) for n, v in zip(head[1:], row[1:], strict=True)}
            found[key] = {**values, "unit": unit.strip(" )")}
    return found


class GenaiPerf:
    """The summary of genai-perf or aiperf."""

    title = "genai-perf and aiperf summaries (profile_export_genai_perf.json, profile_export_aiperf.csv)"

    def recognises(self, head: Head) -> bool:
        """Metrics with statistics."""
        text = head.text
        if text.startswith("Metric,") and "Sequence Length (tokens)" in text:
            return True
        return text.lstrip()[:1] == "{" and '"time_to_first_token"' in text and '"avg"' in text

    def read(self, path: Path, select: str) -> Recorded:
        """Counts, mean lengths and statistics."""
        table = path.suffix.lower() == ".csv"
        data = _genai_csv(read_text(path, MAX_SUMMARY, "trace")) if table else read_json(path, MAX_SUMMARY)
        if not isinstance(data, Mapping):
            raise InputError(f"{path.name}: expected the JSON object of a summary", field="trace")

        def metric(name: str) -> Mapping[str, Any]:
            found = data.get(name)
            return found if isinstance(found, Mapping) else {}

        def mean(name: str) -> float:
            return real_number(metric(name).get("avg", metric(name).get("value")))

        times = (("time_to_first_token", "ttft_s"), ("inter_token_latency", "tpot_s"), ("request_latency", "e2e_s"))
        summary: dict[str, dict[str, float]] = {}
        for name, target in times:
            unit = SECONDS.get(str(metric(name).get("unit", "ms")).lower())
            if unit is None:
                raise InputError(f"{path.name}: {name}: unknown unit {show(metric(name).get('unit'))}", field="trace")
            known = {_STATISTICS[k]: real_number(v) for k, v in metric(name).items() if k in _STATISTICS}
            summary[target] = {k: v * unit for k, v in known.items() if np.isfinite(v)}
        count = mean("request_count")
        if not np.isfinite(count):
            rate, latency = mean("request_throughput"), mean("benchmark_duration")
            count = round(rate * latency) if np.isfinite(rate * latency) else np.nan
        given = data.get("input_config")
        stimulus = given.get("perf_analyzer", {}).get("stimulus", {}) if isinstance(given, Mapping) else {}
        limit = stimulus.get("concurrency") if isinstance(stimulus, Mapping) else None
        return equal_requests(
            path.name,
            count,
            mean("input_sequence_length") * count,
            mean("output_sequence_length") * count,
            summary,
            concurrency=limit if isinstance(limit, int) and limit > 0 else 0,
            said={"duration": count / mean("request_throughput") if mean("request_throughput") > 0 else None},
        )


bench_text = BenchText()
genai_perf = GenaiPerf()
