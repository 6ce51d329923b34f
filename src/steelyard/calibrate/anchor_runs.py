"""``steelyard calibrate --anchor``: measured runs of a deployment beside their prediction, as an anchor.

A run is a benchmark's log, its load replayed; results of llama-bench; or a time to first token and a rate of a load
that is said in words. See :mod:`steelyard.deployment.anchor` for what is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard._version import __version__
from steelyard.calibrate.toml_files import document, write_files
from steelyard.deployment.anchor import Anchor, Run
from steelyard.deployment.engine import Engine
from steelyard.errors import InputError
from steelyard.folders import folder_to_write
from steelyard.machine.component import Machine
from steelyard.simulation.api import read_simulation, run_scenario

if TYPE_CHECKING:
    from steelyard.simulation.result import Simulation

__all__ = ["Anchored", "Said", "anchor_of", "write_anchor"]


@dataclass(frozen=True, slots=True)
class Said:
    """A run in numbers: means over its requests."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    tokens_per_s: float | None = None
    """Generated tokens per second of all clients."""

    @property
    def any(self) -> bool:
        """Whether anything is said."""
        return any(x is not None for x in (self.ttft_s, self.tpot_s, self.tokens_per_s))


@dataclass(frozen=True, slots=True)
class Anchored:
    """An anchor, and the deployment it is of."""

    anchor: Anchor
    engine: Engine
    machine: Machine
    model: str


def anchor_of(
    words: Mapping[str, Any],
    files: Sequence[str] = (),
    *,
    said: Said = Said(),
    rate: str = "",
    concurrency: int | None = None,
) -> Anchored:
    """The anchor of measured runs of one deployment.

    Args:
        words: what was measured: fields of ``simulate``; with ``said`` lengths too.
        files: logs of benchmarks or results of llama-bench, one run each.
        said: a run in numbers instead.
        rate, concurrency: how requests were sent, where logs do not say, and in a run in numbers.

    Raises:
        InputError: a log cannot be read or has no times, model or machine are not known, or numbers contradict.
        DoesNotFit: the deployment has no room for the model.
    """
    found = [_of_file(path, words, rate, concurrency) for path in files]
    if said.any:
        found.append(_of_numbers(words, said, rate, concurrency))
    if not found:
        raise InputError("give the log of a run, or --ttft and --tokens-per-s of one", field="anchor")
    first = found[0]
    runs = tuple(run for x in found for run in x.anchor.run)
    if len({(r.engine, r.machine, r.model) for r in runs}) > 1:
        raise InputError("the runs are of several deployments: make an anchor of each", field="anchor")
    name = "-".join(re.sub(r"[^a-z0-9.]+", "_", x.lower()) for x in (first.model.rpartition("/")[2], *_names(first)))
    title = f"{first.model} on {first.machine.title}, {first.engine.dated}"
    return Anchored(Anchor(name, runs, title, __version__), first.engine, first.machine, first.model)


def _names(found: Anchored) -> tuple[str, str]:
    return found.machine.name, found.engine.generation_of or found.engine.name


def _of_file(path: str, words: Mapping[str, Any], rate: str, concurrency: int | None) -> Anchored:
    from steelyard.simulation.replay import read_log, said_by
    from steelyard.traffic.llama_bench import is_llama_bench

    if is_llama_bench(path):
        return _of_llama_bench(path, words)
    log = read_log(path, rate=rate, concurrency=concurrency, seed=int(words.get("seed") or 0))
    log, words = said_by(log, words)
    simulation = run_scenario(read_simulation({**words, "trace": log.trace}))
    told = {}
    for name in ("ttft_s", "tpot_s"):
        values = getattr(log.recorded, name)
        told[name] = log.recorded.summary.get(name, {}).get("mean") if values is None else _mean(values)
    return _beside(simulation, told["ttft_s"], told["tpot_s"], log.load)


def _of_numbers(words: Mapping[str, Any], said: Said, rate: str, concurrency: int | None) -> Anchored:
    if rate and said.tokens_per_s is not None:
        raise InputError("at a given rate it follows from the arrivals; say --tpot instead", field="tokens_per_s")
    if said.tpot_s is not None and said.tokens_per_s is not None:
        raise InputError("choose one of --tpot and --tokens-per-s", field="tpot")
    load = {"rate": rate} if rate else {"concurrency": concurrency or 1}
    simulation = run_scenario(read_simulation({**words, **load}))
    tpot = said.tpot_s
    if said.tokens_per_s is not None:
        clients, answer = simulation.trace.concurrency, float(simulation.trace.osl.mean())
        ttft = said.ttft_s if said.ttft_s is not None else float(simulation.records.ttft_s.mean())
        if answer < 2:
            raise InputError("answers of one token have no time per token", field="tokens_per_s")
        tpot = (clients * answer / said.tokens_per_s - ttft) / (answer - 1.0)
        if not tpot > 0:
            most = clients * answer / ttft
            words_ = f"{clients} clients who wait {ttft:.3g} s for a first token get at most {most:,.0f} tokens/s"
            raise InputError(f"{words_}, got {said.tokens_per_s:,.6g}", field="tokens_per_s")
    how = f"{rate} as said" if rate else f"closed loop of {concurrency or 1} as said"
    return _beside(simulation, said.ttft_s, tpot, how)


def _beside(simulation: Simulation, ttft_s: float | None, tpot_s: float | None, load: str) -> Anchored:
    """A measured run beside its simulation; first tokens beside one whose steps take as long as measured."""
    records = simulation.records
    predicted = _mean(records.tpot_s) or 0.0
    ratio = tpot_s / predicted if tpot_s and predicted else 1.0
    played = simulation.replay(ratio) if simulation.replay is not None and ratio != 1.0 else simulation
    scenario = simulation.scenario
    if not (ttft_s or tpot_s):
        raise InputError("the run has neither a time to first token nor a time per output token", field="anchor")
    run = Run(
        scenario.engine.generation_of or scenario.engine.name,
        scenario.cluster.machine.name,
        scenario.transformer.name,
        load,
        float(ttft_s or 0.0),
        float(tpot_s or 0.0),
        _mean(played.records.ttft_s) or 0.0,
        predicted,
    )
    return Anchored(Anchor("", (run,)), scenario.engine, scenario.cluster.machine, scenario.transformer.name)


def _of_llama_bench(path: str, words: Mapping[str, Any]) -> Anchored:
    """Prompts and answers of llama-bench, each the geometric mean over its tests."""
    from steelyard.estimation.llama_bench import beside
    from steelyard.scenario.fields import fields_of

    asked = {n: v for n, v in words.items() if n in fields_of("estimate") and v not in (None, "", ())}
    found = beside(path, asked)
    logs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for row in found.rows:
        if bool(row.test.prompt) != bool(row.test.generated):
            tokens = row.test.prompt or 1
            logs[bool(row.test.generated)].append((tokens / row.test.tokens_per_s, tokens / row.predicted))
    if not found.rows:
        raise InputError("the file has no results", field="anchor")
    scenario = found.rows[0].estimate.scenario
    measured, predicted = _geometric(logs[True])
    first = _geometric(logs[False])
    ratio = measured / predicted if predicted else 1.0
    name = scenario.engine.generation_of or scenario.engine.name
    machine, model = scenario.cluster.machine, scenario.transformer.name
    run = Run(name, machine.name, model, "llama-bench", first[0], measured, first[1] * ratio, predicted)
    return Anchored(Anchor("", (run,)), scenario.engine, machine, model)


def _geometric(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Geometric means of both; 0 where there is none."""
    if not pairs:
        return 0.0, 0.0
    measured, predicted = (math.exp(sum(math.log(p[i]) for p in pairs) / len(pairs)) for i in (0, 1))
    return measured, predicted


def _mean(values: Any) -> float | None:
    """The mean of what is finite; None where nothing is."""
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    return float(found.mean()) if found.size else None


def write_anchor(found: Anchored, out: str = "") -> Path:
    """Write ``anchors/NAME.toml`` to a catalogue. Raises :class:`InputError` where that cannot be."""
    comments = (f"Measured runs: {found.anchor.title}.", "Used by `--anchor` of estimate, simulate and plan.")
    data = {"schema": "steelyard.anchor/1", **asdict(found.anchor)}
    text = document(data, comments)
    return write_files(folder_to_write(out), {f"anchors/{found.anchor.name}.toml": text})[0]
