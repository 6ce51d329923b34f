"""Results of ``llama-bench`` beside estimates: each row is one question of llama.cpp.

Nothing of a server is in these times: no wait for a request is priced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from steelyard._display import Result
from steelyard.documents import is_file
from steelyard.errors import InputError, UnknownName, show, suggest
from steelyard.estimation.estimate import Estimate, answer
from steelyard.machine.catalogue import find_machine, machine_names
from steelyard.scenario.fields import fields_of
from steelyard.scenario.scenario import Scenario, check_name, read_model
from steelyard.traffic.llama_bench import Bench, Test, read_llama_bench
from steelyard.traffic.readers import find_file
from steelyard.traffic.trace import LENGTHS
from steelyard.workload.catalogue import Model

__all__ = ["LlamaBench", "Tested", "beside"]

#: Endings of the kind of a model that name its quantisation: ``Q4_K - Medium``, ``IQ2_XXS - 2.0625 bpw``, ``F16``.
_QUANT = re.compile(
    r"\b((?:I?|T)Q\d\w*|BF16|F16|F32|MXFP4)(?: MoE)?(?: - (Small|Medium|Large)| - [\d.]+ bpw.*)?$", re.I
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_CACHE = {"f16": "", "f32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class Tested:
    """A row beside its estimate."""

    test: Test
    predicted: float
    """Tokens/s."""
    low: float
    high: float
    estimate: Estimate

    @property
    def error_frac(self) -> float:
        """``predicted / measured - 1``."""
        return self.predicted / self.test.tokens_per_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the 80 % interval."""
        return self.low <= self.test.tokens_per_s <= self.high


@dataclass(frozen=True, eq=False, repr=False)
class LlamaBench(Result):
    """Every row of a file beside its estimate."""

    name: str
    rows: tuple[Tested, ...]
    taken: tuple[str, ...]
    """What the file itself said of the question, in words."""

    def __len__(self) -> int:
        return len(self.rows)


def beside(source: str, words: Mapping[str, Any]) -> LlamaBench:
    """Every row of a file of llama-bench beside its estimate.

    Args:
        source: the file.
        words: the question as far as it is given: fields of an estimate. What is not is what the file says: the model
            by the name of its file, the machine by the names of its devices, formats, and what stayed in host memory.

    Raises:
        InputError: the file cannot be read, or model or machine are neither given nor said by it in words that are
            known; all problems at once where possible.
        DoesNotFit: never; a row that does not fit is priced as if it did.
    """
    known = fields_of("estimate")
    lost = [name for name in words if name not in known]
    if lost:
        raise InputError("not for results of llama-bench, which has no traffic", field=lost[0])
    rows: list[Tested] = []
    taken: dict[str, None] = {}
    for bench in read_llama_bench(source):
        asked, said = _question(bench, words)
        taken.update(dict.fromkeys(said))
        rows += [_priced(test, asked) for test in bench.tests]
    return LlamaBench(find_file(source)[2], tuple(rows), tuple(taken))


def _question(bench: Bench, words: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that all rows of a group share, and what the file said of them."""
    asked: dict[str, Any] = {"engine": "llamacpp", **{k: v for k, v in words.items() if v not in (None, "")}}
    said: list[str] = []
    given = asked.get("model")
    model = read_model(given, bool(asked.get("generic"))) if given else _model(bench)
    if not given:
        said.append(f"model {model.name}")
    quant = _quant(bench)
    own = model.engine == "llamacpp"  # a GGUF file, or a name that says its format
    if quant and not asked.get("weights") and not own:
        asked["weights"] = quant
        said.append(f"weights {quant}")
    asked["model"] = model
    if not asked.get("on"):
        asked["on"] = _machines(bench)
        said.append(f"machine {asked['on']}")
    cache = _CACHE.get(bench.cache, bench.cache)
    if cache and not asked.get("kv"):
        check_name("kv", cache)
        asked["kv"] = cache
        said.append(f"KV cache {cache}")
    placed = []
    if bench.layers is not None and bench.layers < model.transformer.depth:
        placed.append(f"layers:{bench.layers}")
    if bench.host_experts:
        placed.append(f"experts:{bench.host_experts}")
    if placed and not asked.get("offload"):
        asked["offload"] = ",".join(placed)
        said.append(f"in host memory {asked['offload']}")
    return asked, said


def _model(bench: Bench) -> Model:
    """The model that a result names: its file, when it is here, else the name of the file."""
    if bench.file and is_file(bench.file):
        return read_model(bench.file, False)
    stem = _SPLIT.sub("", re.split(r"[/\\]", bench.file)[-1].removesuffix(".gguf"))
    if stem:
        try:
            return read_model(stem, False)
        except UnknownName:
            pass
    what = show(stem or bench.kind or "nothing")
    raise InputError(f"the result says {what} of its model; give the model it was", field="model")


def _quant(bench: Bench) -> str:
    """The format of the weights by the kind of the model: ``q4_k_m``; empty = not known."""
    found = _QUANT.search(bench.kind)
    if found is None:
        return ""
    name = found[1].lower() + (f"_{found[2][0].lower()}" if found[2] else "")
    name = {"f16": "fp16", "f32": "fp32", "mxfp4": "mxfp4_moe"}.get(name, name)
    for tried in (name, name.rpartition("_")[0]):
        try:
            check_name("weights", tried)
        except InputError:
            continue
        return tried
    return ""


def _machines(bench: Bench) -> str:
    """The devices of a result by the names of the catalogue: ``rtx_4090:2``. Raises :class:`InputError`."""
    names = [_machine(device) for device in bench.devices]
    if not names:
        raise InputError("the result does not say what it ran on; give the machine", field="on")
    if len(set(names)) > 1:
        return "+".join(names)
    return names[0] if len(names) == 1 else f"{names[0]}:{len(names)}"


def _machine(device: str) -> str:
    """The machine that a driver calls so: ``AMD Radeon RX 7900 XTX (RADV NAVI31)``. Raises :class:`InputError`."""
    text = re.sub(r"\((?:R|TM|r|tm)\)| \d+-Core Processor| CPU(?: @.*)?$| Processor$", "", device).strip()
    driver = re.search(r"\((?:\w+ )?(\w+)\)$", text)  # Mesa's name of the chip
    plain = re.sub(r" *\([^()]*\)$", "", text)
    tried = [text, plain, re.sub(r" w/ .*| Graphics$", "", plain), *([driver[1]] if driver else [])]
    for name in tried:
        with suppress(InputError):
            return find_machine(name).name
    near = suggest(text, machine_names(), 3, kind="machine")
    words = f"; did you mean {', '.join(near)}?" if near else ""
    raise InputError(f"the result says {show(device)}, which is no machine I know; give it{words}", field="on")


def _priced(test: Test, asked: Mapping[str, Any]) -> Tested:
    """A row beside its estimate: prompts without the wait for a request, answers after the context given."""

    def at(prompt: int, generated: int) -> Estimate:
        sizes = dict(zip(LENGTHS, (max(1, prompt), max(1, generated)), strict=True))
        return answer(Scenario.of("estimate", **{**asked, **sizes}))

    found = at(test.depth + test.prompt, test.generated)
    seconds = low = high = 0.0
    if test.prompt:
        before = at(test.depth, 1).ttft_s if test.depth else found.scenario.request_s
        seconds = found.ttft_s - before
        low, high = (seconds * end / found.ttft_s for end in found.interval["ttft_s"])
    if test.generated:
        seconds += test.generated * found.tpot_s
        low, high = (x + test.generated * end for x, end in zip((low, high), found.interval["tpot_s"], strict=True))
    tokens = test.prompt + test.generated
    return Tested(test, tokens / seconds, tokens / high, tokens / low, found)
