"""The raw profile of genai-perf and Perf Analyzer, ``profile_export.json``: when each request was sent and each piece
of its answer came, in ns (triton-inference-server/perf_analyzer, its documentation and tests).

A piece that carries no text (the role at the beginning, the end mark) is no token. An answer's tokens are what its
``usage`` says, else its pieces with text, else all its pieces; a prompt's are in ``usage`` or not in the file at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError, show
from steelyard.traffic.logs import Rows
from steelyard.traffic.readers import Head, Recorded, read_json, real_number
from steelyard.traffic.trace import LENGTHS

__all__ = ["raw_profile"]


class RawProfile:
    """Requests with the times of their answers' pieces."""

    title = "raw profile of genai-perf and Perf Analyzer (profile_export.json)"

    def recognises(self, head: Head) -> bool:
        """Experiments with requests."""
        return head.text.lstrip()[:1] == "{" and '"experiments"' in head.text

    def read(self, path: Path, select: str) -> Recorded:
        """The requests of one experiment, the only one unless a number names it."""
        data = read_json(path)
        runs = data.get("experiments") if isinstance(data, Mapping) else None
        if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs) or not runs:
            raise InputError(f"{path.name} has no experiments", field="trace")
        if not select and len(runs) > 1:
            names = f"{path.name}#1 to #{len(runs)}"
            raise InputError(f"{path.name} holds {len(runs)} experiments; choose one, {names}", field="trace")
        if select and not (select.isdecimal() and len(select) < 6 and 1 <= int(select) <= len(runs)):
            words = f"{path.name} holds experiments 1 to {len(runs)}; {show(select)} is none of them"
            raise InputError(words, field="trace")
        run = runs[int(select or 1) - 1]
        requests = run.get("requests")
        if not isinstance(requests, list):
            raise InputError(f"{path.name}: the experiment has no list of requests", field="trace")
        rows = Rows()
        prompts: list[int] = []
        for i, request in enumerate(requests, 1):
            words = _add(rows, prompts, i, request)
            if words:
                rows.problems.append((i, words))
        found = rows.recorded(path.name, "request")
        unknown = not all(prompts)
        how = run.get("experiment")
        mode, value = (how.get("mode"), how.get("value")) if isinstance(how, Mapping) else ("", None)
        rate = value if mode == "request_rate" else None
        whole = value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
        sizes = np.zeros(len(found), dtype=np.int64) if unknown else np.array(prompts, dtype=np.int64)
        asked: dict[str, Any] = {LENGTHS[0]: sizes}
        return replace(
            found,
            **asked,
            lacking=LENGTHS[:1] if unknown else (),
            concurrency=whole if mode == "concurrency" else 0,
            said={"request_rate": rate, "model": _model(requests)},
            notes=(*found.notes, "an answer's tokens are the pieces with text that its client saw, or its usage"),
        )


def _add(rows: Rows, prompts: list[int], i: int, request: Any) -> str:
    """Collect one request; what is wrong with it, or nothing."""
    times = request.get("response_timestamps") if isinstance(request, Mapping) else None
    if not isinstance(times, list):
        return "expected timestamp and response_timestamps"
    outputs = request.get("response_outputs")
    pieces = outputs if isinstance(outputs, list) and len(outputs) == len(times) else [None] * len(times)
    seen = [_piece(piece) for piece in pieces]
    kept = [real_number(t) for t, (spoken, _) in zip(times, seen, strict=True) if spoken]
    usage: Mapping[str, Any] = next((u for _, u in reversed(seen) if u), {})
    if not kept:
        rows.failed += 1
        return ""
    sent = real_number(request.get("timestamp"))
    tokens = usage.get("completion_tokens") or len(kept)
    first, last = (kept[0] - sent) * 1e-9, (kept[-1] - sent) * 1e-9
    if not 0 <= first <= last:
        return "expected response_timestamps in order, after the timestamp"
    many = isinstance(tokens, int) and tokens > 1 and len(kept) > 1
    before = len(rows.prompts)
    rows.add(
        i,
        1,
        tokens,
        ("prompt_tokens", "completion_tokens"),
        arrived_at=sent * 1e-9,
        ttft_s=first,
        e2e_s=last,
        tpot_s=(last - first) / (tokens - 1) if many else np.nan,
    )
    if len(rows.prompts) > before:
        said = usage.get("prompt_tokens")
        prompts.append(said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else 0)
    return ""


def _piece(output: Any) -> tuple[bool, Mapping[str, Any]]:
    """Whether a piece of an answer carries text, and the usage it states; a piece that cannot be read counts."""
    text = output.get("response") if isinstance(output, Mapping) else None
    if not isinstance(text, str):
        return True, {}
    body = text.strip().removeprefix("data:").strip()
    if body in ("", "[DONE]"):
        return False, {}
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return True, {}
    if not isinstance(data, Mapping):
        return True, {}
    usage = data.get("usage")
    choices = data.get("choices")
    usage = usage if isinstance(usage, Mapping) else {}
    if not isinstance(choices, list):
        return True, usage
    spoken = False
    for choice in choices:
        if isinstance(choice, Mapping):
            delta = choice.get("delta", choice.get("message"))
            spoken = spoken or bool(choice.get("text"))
            if isinstance(delta, Mapping):
                spoken = spoken or any(
                    bool(delta.get(k)) for k in ("content", "reasoning_content", "reasoning", "tool_calls")
                )
    return spoken, usage


def _model(requests: list[Any]) -> str:
    """The model that the first request names; empty = none."""
    inputs = requests[0].get("request_inputs") if requests and isinstance(requests[0], Mapping) else None
    payload = inputs.get("payload") if isinstance(inputs, Mapping) else None
    try:
        found = json.loads(payload) if isinstance(payload, str) else payload
    except (ValueError, RecursionError):
        return ""
    name = found.get("model") if isinstance(found, Mapping) else None
    return name if isinstance(name, str) else ""


raw_profile = RawProfile()
