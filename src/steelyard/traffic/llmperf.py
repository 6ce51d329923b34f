"""Results of LLMPerf (ray-project/llmperf, ``token_benchmark_ray.py``): ``..._summary.json`` and
``..._individual_responses.json``.

LLMPerf's ``inter_token_latency_s`` is the end-to-end time over the output tokens, the first among them, so the time per
output token here is ``(end to end - TTFT) / (output tokens - 1)``: per request, or of the means of a summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import is_file
from steelyard.errors import InputError
from steelyard.traffic.logs import Rows
from steelyard.traffic.readers import Head, Recorded, read_json, real_number
from steelyard.traffic.summaries import MAX_SUMMARY, equal_requests

__all__ = ["llmperf"]

_SUMMARY, _SINGLE = "_summary.json", "_individual_responses.json"
#: The tool's percentiles that are compared.
_QUANTILES = ("p50", "p75", "p90", "p95", "p99")


class LlmPerf:
    """A summary, or one entry per request."""

    title = "LLMPerf's _summary.json and _individual_responses.json"

    def recognises(self, head: Head) -> bool:
        """The tool's names of a request's times, flat in a summary."""
        single = '"end_to_end_latency_s"' in head.text and '"number_output_tokens"' in head.text
        return single or '"results_end_to_end_latency_s_mean"' in head.text

    def read(self, path: Path, select: str) -> Recorded:
        """The requests, or so many equal ones with the summary's statistics."""
        if select:
            raise InputError(f"{path.name} holds one benchmark; {select!r} is not in it", field="trace")
        data = read_json(path)
        if isinstance(data, Mapping) and "results_end_to_end_latency_s_mean" in data:
            return _summary(path, data)
        requests = data if isinstance(data, list) else [data]
        rows = Rows()
        for i, request in enumerate(requests, 1):
            if not isinstance(request, Mapping):
                rows.problems.append((i, "expected an object"))
                continue
            if request.get("error_code") is not None or request.get("number_output_tokens") == 0:
                rows.failed += 1
                continue
            ttft, e2e = real_number(request.get("ttft_s")), real_number(request.get("end_to_end_latency_s"))
            prompt, output = request.get("number_input_tokens"), request.get("number_output_tokens")
            more = real_number(output) - 1
            names = ("number_input_tokens", "number_output_tokens")
            tpot = (e2e - ttft) / more if more > 0 else np.nan
            rows.add(i, prompt, output, names, ttft_s=ttft, e2e_s=e2e, tpot_s=tpot)
        found = rows.recorded(path.name, "request")
        beside = path.with_name(path.name.removesuffix(_SINGLE) + _SUMMARY)
        if path.name.endswith(_SINGLE) and is_file(beside):
            told = _summary(beside, read_json(beside, MAX_SUMMARY))
            found = replace(found, concurrency=told.concurrency, said=told.said)
        return found


def _summary(path: Path, data: Any) -> Recorded:
    if not isinstance(data, Mapping):
        raise InputError(f"{path.name}: expected the JSON object of a summary", field="trace")

    def figure(*names: str) -> float:
        return real_number(data.get("_".join(("results", *names))))

    count = figure("num_completed_requests")
    sizes = [figure("number", side, "tokens", "mean") for side in ("input", "output")]
    summary: dict[str, dict[str, float]] = {}
    for name, target in (("ttft_s", "ttft_s"), ("end_to_end_latency_s", "e2e_s")):
        values = {"mean": figure(name, "mean"), **{q: figure(name, "quantiles", q) for q in _QUANTILES}}
        summary[target] = {k: v for k, v in values.items() if np.isfinite(v)}
    decoding = figure("end_to_end_latency_s", "mean") - figure("ttft_s", "mean")
    if decoding > 0 and sizes[1] > 1:
        summary["tpot_s"] = {"mean": decoding / (sizes[1] - 1)}
    per_minute = figure("num_completed_requests_per_min")
    clients = data.get("num_concurrent_requests")
    return equal_requests(
        path.name,
        count,
        sizes[0] * count,
        sizes[1] * count,
        summary,
        concurrency=clients if isinstance(clients, int) and not isinstance(clients, bool) and clients > 0 else 0,
        said={"model": data.get("model"), "duration": count / per_minute * 60 if per_minute > 0 else None},
    )


llmperf = LlmPerf()
