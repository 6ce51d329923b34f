"""Scenarios of claims, asked of the public verbs: the JSON answer, its figures and their intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steelyard.arithmetic import reckon
from steelyard.errors import InputError, show, suggest
from steelyard.interval import Z80
from steelyard.scenario.answers import at_path
from steelyard.scenario.network import asks_net

__all__ = ["answer", "command", "figure", "interval"]


def answer(verb: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document that ``steelyard VERB --json`` prints.

    Raises:
        InputError: the question is wrong.
        DoesNotFit: there is no answer.
    """
    import steelyard

    given = dict(words)
    if verb == "simulate":
        from steelyard.report.simulation import to_dict
        from steelyard.simulation.api import read_simulation, run_scenario
        from steelyard.simulation.limits import ends_of

        scenario = read_simulation(given)
        run = run_scenario(scenario)
        return _with_capacity(to_dict(run, scenario.slo, ends_of(run, None)))
    if verb in ("estimate", "explain") and asks_net(given):
        return _of_network(verb, given)
    found = getattr(steelyard, verb)(**given)
    if verb == "estimate":
        from steelyard.report.estimate import to_dict as of_estimate

        return _with_rates(of_estimate(found))
    if verb == "explain":
        from steelyard.report.explain import to_dict as of_explanation

        return _with_sums(of_explanation(found))
    if verb == "train":
        from steelyard.report.train import to_dict as of_training

        document = of_training(found)
        document["intervals"] = {"step_s": {"value": document["interval"]["step_s"]}}
        if document["rl"]:
            ends = [document["rl"]["step_s"][end] for end in ("low", "high")]
            rates = [document["rl"]["tokens"] / x for x in reversed(ends)]
            document["intervals"]["rl"] = {"step_s": {"value": ends}, "tokens_per_s": rates}
        if document["memory_bytes"]:
            document["fullest"] = max(document["memory_bytes"], key=lambda stage: float(stage["allocated"]))
        return document
    if verb == "plan":
        from steelyard.report.plan import to_dict as of_plan

        return of_plan(found)
    if verb == "search_network":
        from steelyard.report.search_network import to_dict as of_search

        return _with_ends(of_search(found))
    from steelyard.report.places import to_dict as of_places

    return of_places(found)


def _of_network(verb: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of ``estimate`` or ``explain`` for a network or a pipeline.

    That of ``explain`` has sums over the kernels of each phase, times of all its runs, work and bytes of one:
    ``denoise.by_class.conv``, ``forward.bytes_by_op.softmax``.
    """
    from steelyard.estimation.network import answer_net
    from steelyard.report.network import explained_dict, to_dict
    from steelyard.scenario.network import read_net_scenario
    from steelyard.scenario.words import Problems

    found = answer_net(read_net_scenario(words, Problems()))
    if verb == "estimate":
        return to_dict(found)
    document = explained_dict(found)
    kernels: list[dict[str, Any]] = document["kernels"]
    for name in dict.fromkeys(k["phase"] for k in kernels):
        some = [{**k, "time_s": k["time_s"] * k["repeats"]} for k in kernels if k["phase"] == name]
        phase: dict[str, Any] = {"time_s": sum(k["time_s"] for k in some)}
        for key in ("class", "op"):
            for what, prefix in (("time_s", ""), ("flops", "flops_"), ("bytes", "bytes_")):
                phase[f"{prefix}by_{key}"] = _summed(some, key, what)
        document[name] = phase
    return document


def _summed(kernels: Sequence[Mapping[str, Any]], key: str, what: str) -> dict[str, float]:
    """Sums over kernels of the same ``key``."""
    sums: dict[str, float] = {}
    for kernel in kernels:
        name = str(kernel[key])
        sums[name] = sums.get(name, 0.0) + float(kernel.get(what) or 0.0)
    return sums


def _with_capacity(document: dict[str, Any]) -> dict[str, Any]:
    """The answer of ``simulate --capacity`` with the interval where those of other figures are."""
    ends = (document.get("capacity") or {}).get("interval_rps")
    if ends and document.get("intervals") is not None:
        document["intervals"]["capacity_rps"] = ends
    return document


def _with_rates(document: dict[str, Any]) -> dict[str, Any]:
    """The answer of ``estimate`` with the intervals of rates and prices, which follow those of times."""
    ends = document["interval"]
    low, high = (document["e2e_s"] / x for x in ends["e2e_s"][::-1])
    for name, to in (("tokens_per_s", 1), ("tokens_per_s_per_device", 1), ("usd_per_million_tokens", -1)):
        if document.get(name):
            ends[name] = sorted(document[name] * x**to for x in (low, high))
    return document


def _with_ends(document: dict[str, Any]) -> dict[str, Any]:
    """The answer of ``search network`` with the network of the best score and the fastest by name, and how far a solver
    came: ``best_score.latency_s.pixel_3``, ``fastest.macs``, ``hypervolume_frac``."""
    front, history = document["front"], document["history"]
    document |= {"best_score": front[0], "fastest": front[-1]}
    for name in ("best_score", "fastest"):
        ends = {d: [document[name][f"latency_s_{end}"][d] for end in ("low", "high")] for d in document["devices"]}
        document.setdefault("intervals", {})[name] = {"latency_s": ends}
    if history:
        document["hypervolume_frac"] = history[-1]["hypervolume_frac"]
    return document


def _with_sums(document: dict[str, Any]) -> dict[str, Any]:
    """The answer of ``explain`` with sums over kernels: ``decode.by_kind.attention``, ``decode.flops_by_block.moe``.

    The interval of a sum of times is that of its kernels' spreads by their time: they are wrong together.
    """
    intervals: dict[str, Any] = document.setdefault("intervals", {})
    for phase in ("prefill", "decode"):
        kernels = document[phase]["kernels"]
        intervals[phase] = {"time_s": _ends(kernels)}
        for key in ("kind", "block"):
            groups: dict[str, list[Any]] = {}
            for kernel in kernels:  # time beside the kernels is of no block
                groups.setdefault(kernel.get(key) or kernel["kind"], []).append(kernel)
            for what, prefix in (("time_s", ""), ("flops", "flops_"), ("bytes", "bytes_"), ("energy_j", "energy_")):
                sums = {name: sum(float(k.get(what) or 0.0) for k in some) for name, some in groups.items()}
                document[phase][f"{prefix}by_{key}"] = sums
            intervals[phase][f"by_{key}"] = {name: _ends(some) for name, some in groups.items()}
    return document


def _ends(kernels: Sequence[Mapping[str, Any]]) -> list[float]:
    """80 % interval of the time of kernels together."""
    time = sum(float(k["time_s"]) for k in kernels)
    spread = sum(float(k["time_s"]) * float(k.get("log_spread") or 0.0) for k in kernels) / max(time, 1e-30)
    return [time * math.exp(-Z80 * spread), time * math.exp(Z80 * spread)]


def _number(document: Any, path: str) -> float | None:
    value = at_path(document, path)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def figure(document: Mapping[str, Any], text: str) -> float:
    """A figure of an answer: a path, or arithmetic of paths. Raises :class:`InputError`: there is none."""

    def value_of(path: str) -> float | None:
        if at_path(document, path) is None and (near := suggest(path, _paths(document), 3)):
            raise InputError(f"the answer has no figure {show(path)}; did you mean {' or '.join(map(show, near))}?")
        return _number(document, path)

    return reckon(text, value_of, "figures of the answer")


def _paths(document: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The paths of the numbers of an answer."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{name}"


def interval(document: Mapping[str, Any], text: str) -> tuple[float, float]:
    """80 % interval of a figure: of each path in it its own, all at the same end; of what has none the figure."""

    def end(i: int) -> float:
        def value_of(path: str) -> float | None:
            for where in (f"interval.{path}", f"intervals.{path}"):
                ends = at_path(document, where)
                if isinstance(ends, list | tuple) and len(ends) == 2 and all(isinstance(x, int | float) for x in ends):
                    return float(ends[i])
            return _number(document, path)

        return reckon(text, value_of, "figures of the answer")

    low, high = end(0), end(1)
    return min(low, high), max(low, high)


#: Verbs that take the fields of another.
_FIELDS = {"explain": "estimate", "fit": "estimate"}


def command(verb: str, words: Mapping[str, Any]) -> str:
    """The command line of a question."""
    import shlex

    from steelyard.scenario.fields import fields_of

    if verb == "search_network":  # its options are described by its own signature
        parts = [f"--{name.replace('_', '-')}={_spelled(value)}" for name, value in words.items()]
        return shlex.join(["steelyard", "search", "network", *parts])
    known = fields_of(_FIELDS.get(verb, verb))
    parts = ["steelyard", verb]
    for name, value in words.items():
        if name == "model":
            parts.insert(2, str(value))
        elif name == "flags":
            for flag, setting in value.items():
                parts += [f"--{flag.replace('_', '-')}", _spelled(setting)]
        elif name == "techniques":
            for one in (value,) if isinstance(value, str) else value:
                parts += ["--with", str(one)]
        elif name in known:
            option = known[name].switch
            parts += [option] if value is True else [option, _spelled(value)]
        else:
            raise InputError(f"{verb} has no field {show(name)}", field=name)
    return shlex.join(parts)


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
