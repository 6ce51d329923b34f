"""The folder of a plan: launch files, the answer as JSON, the replayable plan, the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.deployment.plan_file import deployment_text
from steelyard.errors import InputError
from steelyard.launch import Load, launch_files, service
from steelyard.launch.documents import comment
from steelyard.report.plan import chance_line, question_lines, replay_dict, to_dict
from steelyard.scenario.fields import GROUPS
from steelyard.scenario.shown import with_shown

if TYPE_CHECKING:
    from steelyard.search.answer import Answer
    from steelyard.workload.catalogue import Model
    from steelyard.workload.reading import Seen

__all__ = ["load_of", "plan_files"]

#: What the further files of the folder are.
_SAID = {
    "plan.json": "the whole answer (schema steelyard.plan/1)",
    "plan.toml": "the plan to replay: `steelyard plan --replay plan.toml`",
    "report.html": "the answer as a page that needs no network",
    "front.svg": "the fronts as a picture",
}


def load_of(answer: Answer) -> Load:
    """The traffic of the question as the launch files need it, the longest request from the trace itself."""
    k, w = answer.question, answer.winner
    mean_s = 0.0
    if w is not None:
        mean_s = float(w.percentiles.get("e2e_s", {}).get("mean", w.e2e_s))
    longest, spread = round(k.prompt_tokens + k.output_tokens), (0.0, 0.0)
    if k.traffic:
        from steelyard.traffic.build import Traffic, traffic

        try:
            words = {name: value for name, value in k.traffic.items() if name not in GROUPS["shown"]}
            trace = with_shown(traffic(Traffic(**words)), k.seen, k.seed)
        except (InputError, TypeError):
            pass
        else:
            both = np.asarray(trace.isl) + np.asarray(trace.osl)
            longest, spread = int(both.max()), (float(np.std(trace.isl)), float(np.std(trace.osl)))
    return Load(
        rate_per_s=k.rate_per_s,
        prompt_tokens=k.prompt_tokens,
        output_tokens=k.output_tokens,
        longest_tokens=longest,
        prompt_std=spread[0],
        output_std=spread[1],
        requests=k.requests or 1000,
        in_flight=k.rate_per_s * mean_s if k.concurrency is None else float(k.concurrency),
        concurrency=k.concurrency or 0,
        words=question_lines(k)[0],
        seed=k.seed,
        trace=str(k.traffic.get("trace", "")),
        shown=_shown(k.seen),
    )


def _shown(seen: Sequence[Seen]) -> dict[str, int]:
    """Most images and sounds of a request."""
    kinds = {"vision": "image", "audio": "audio"}
    found: dict[str, float] = {}
    for one in seen:
        found[kinds[one.shown.kind]] = found.get(kinds[one.shown.kind], 0.0) + one.shown.count
    return {kind: math.ceil(round(count, 9)) for kind, count in found.items()}


def plan_files(answer: Answer, *, model: Model | None = None) -> dict[str, str]:
    """Every file of the folder by name.

    Raises:
        InputError: no launch files are written for its engine, or there is no winner.
    """
    from steelyard.report.plan_page import page, picture

    w = answer.winner
    if w is None:
        raise InputError("nothing fits: there is no deployment to write files for", field="out")
    odds = f"it {chance_line(w)}, by the 80 % intervals of the prediction" if w.chance else ""
    found = service(
        w.deployment,
        load_of(answer),
        answer.question.targets,
        model=model,
        odds=odds,
        unlaunched=[str(t) for t in answer.question.techniques if not t.words("plan")],
    )
    drawn = bool(answer.front or answer.cost_front)
    files = launch_files(found, more_files={k: v for k, v in _SAID.items() if drawn or k != "front.svg"})
    replay: dict[str, Any] = replay_dict(answer) or {}
    files["plan.json"] = json.dumps(to_dict(answer), indent=2, allow_nan=False) + "\n"
    about = [f"The plan for {answer.question.model}: {w.shape} on {w.machine}.", *question_lines(answer.question)]
    tables = {name: replay.get(name) for name in ("traffic", "promise", "simulation", "expected")}
    files["plan.toml"] = comment(*about) + deployment_text(w.deployment, **tables)
    commands = {k: v for k, v in files.items() if k.startswith(("serve", "router", "check-vllm")) and k.endswith(".sh")}
    files["report.html"] = page(answer, commands)
    if drawn:
        files["front.svg"] = picture(answer)
    return files
