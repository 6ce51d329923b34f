"""The fields of a question: the one table of every word a user can say, and what each verb takes.

Python signatures and docstrings, the command line, study files and their JSON schema, the input columns of the store
and the reference pages are derived from it. An entry ``verb.name`` replaces ``name`` where a verb means something else
by the same word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from steelyard.errors import InputError, UnknownName

__all__ = [
    "ENGINE_FLAGS",
    "FLAGS",
    "GROUPS",
    "KINDS",
    "PRICE",
    "REQUIRED",
    "VERBS",
    "Field",
    "field",
    "fields_of",
    "study_fields",
]

#: Stands for a field without a default.
REQUIRED: Any = ...

#: The field of the price of a device.
PRICE = "usd_per_hour"

#: Prefix of engine flags among the fields of a study; the flags have the engine's own names.
FLAGS = "flags."


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a question."""

    name: str
    """The keyword in Python, the field of a study file, the column of the store."""
    type: str
    """``whole`` and ``number``; ``name`` (several are separated by commas); ``text`` (taken as it is); ``switch``;
    ``object`` (what only a program can give)."""
    doc: str
    default: Any = None
    least: float = -math.inf
    most: float = math.inf
    unit: str = "1"
    """SI base unit of a number; text with a unit is read where it is not ``1``."""
    options: tuple[str, ...] = ()
    """Names on the command line; empty = ``--name``."""
    note: str = ""
    """What the command line takes beyond the other surfaces."""
    show: bool = False
    """Whether the help shows the default."""
    choices: tuple[str, ...] = ()
    also: str = ""
    """Python types taken beside those of ``type``, as an annotation: ``Trace | Path``."""
    column: bool = False
    """Whether the store keeps it as a column."""
    several: bool = False
    """Whether it may be given more than once."""

    @property
    def option(self) -> str:
        """The name in messages of the command line: ``price`` for ``usd_per_hour``."""
        return self.options[0].lstrip("-").replace("-", "_") if self.options else self.name

    @property
    def python(self) -> str:
        """The type as a Python annotation."""
        kinds = {"whole": "int", "number": "float", "name": "str", "text": "str", "switch": "bool", "object": ""}
        parts = [x for x in (kinds[self.type], self.also) if x]
        if self.several:
            parts = ["str", "Sequence[str]"]
        return " | ".join([*parts, *(["None"] if self.default is None else [])])


def _field(name: str, kind: str, doc: str, default: Any = "", **more: Any) -> Field:
    return Field(name, kind, doc, default, **more)


def _degree(name: str, doc: str, default: int | None = None) -> Field:
    return Field(name, "whole", doc, default, 1, column=True)


_TARGETS = "p99:1s, mean:500ms, or 1s (p99)"

#: Every field.
_FIELDS = (
    _field(
        "model",
        "name",
        "catalogue name, or path of an HF config, a folder, a safetensors or a GGUF file",
        REQUIRED,
        also="Model",
        column=True,
    ),
    _field(
        "on",
        "name",
        "machine: NAME[:COUNT], or the path of a machine file",
        REQUIRED,
        also="Cluster | Machine",
        column=True,
    ),
    _field(
        "estimate.on",
        "name",
        "machine: NAME[:COUNT], or the path of a machine file",
        REQUIRED,
        note="; several are separated by commas",
        also="Cluster | Machine",
        column=True,
    ),
    _field(
        "plan.on",
        "text",
        "machines: h100_sxm,h200_sxm,mi300x,l40s, or any",
        "any",
        show=True,
        also="Sequence[str]",
        column=True,
    ),
    # formats and degrees
    _field("weights", "name", "number format of the weights (default: as published)", column=True),
    _field("activations", "name", "number format of activations (default: implied by the weights)", column=True),
    _field("kv", "name", "number format of the KV cache (default: 16 bit)", column=True),
    _field("communication", "name", "number format of collectives (default: 16 bit)", column=True),
    _degree("tp", "tensor-parallel degree (default: what uses every device)"),
    _degree("pp", "pipeline-parallel degree"),
    _degree("dp", "data-parallel degree (replicas)"),
    _degree("simulate.dp", "data-parallel degree: replicas inside --on, fed by the router"),
    _degree("ep", "expert-parallel degree", 1),
    _degree("cp", "context-parallel degree", 1),
    _field(
        "engine",
        "name",
        "serving engine: vllm, sglang, trtllm, llamacpp, torch",
        options=("--engine", "--backend"),
        column=True,
    ),
    _field(
        "simulate.engine",
        "name",
        "vllm, sglang, trtllm, llamacpp; or a scheduler: static, orca, tgi, sarathi",
        options=("--engine", "--backend"),
        column=True,
    ),
    _field("flags", "object", "the engine's own flags, by its own names", None, also="Mapping[str, Any]"),
    # the static batch
    _field(
        "batch",
        "whole",
        "requests in flight",
        1,
        least=1,
        note=": a number, a list 1,2,4, a range 1-256*2 or 1-10+3",
        column=True,
    ),
    _field("isl", "whole", "prompt tokens per request", 1024, least=1, column=True),
    _field("osl", "whole", "generated tokens per request", 256, least=1, column=True),
    # pools and what changes while they serve
    _field("replicas", "whole", "copies of the whole deployment that --on describes", 1, least=1, column=True),
    _field(
        "disaggregate",
        "text",
        "pools for prompts (P), answers (D), encoders (E) or both (M): 1P:tp8,1D:tp8 or 2P:tp4@h100_sxm,1D:tp8dp2; "
        "attention and feed-forward devices: 1A:8@h20,1F:8@h800; shares of the same devices: semi:0.6 for prompts",
        column=True,
    ),
    _field(
        "transfer_overlap",
        "number",
        "share of a KV cache that is sent while its prompt is computed (default: 0, pulled afterwards)",
        0.0,
    ),
    _field(
        "encode_s",
        "number",
        "time of an encoder before each prompt, 50ms, with a pool E",
        None,
        least=0,
        most=1e9,
        unit="s",
        options=("--encode",),
    ),
    _field("mtbf", "text", "mean time between failures of a replica, 6h (default: none fails)", also="float"),
    _field("restart", "text", "until a failed replica serves again (default: 3min)", also="float"),
    _field("outages", "text", "given failures, TIME:REPLICA:down or :up, separated by commas", also="Sequence[Outage]"),
    _field(
        "autoscale",
        "text",
        "LEAST:MOST replicas by load, 1:8 or 1:8,target=16,interval=30s,start=2min; --replicas are there at most",
        also="Autoscale",
    ),
    _field("migrate", "switch", "running requests move to the replica with most room (Llumnix)", False),
    _field(
        "router",
        "name",
        "which replica gets a request: round-robin, random, least-loaded, session, prefix",
        "round-robin",
        show=True,
        column=True,
    ),
    _field("skew", "number", "exponent of the power law of expert popularity; 0 = balanced", 0.0, least=0, column=True),
    _field(
        "usd_per_hour",
        "number",
        "USD per device and hour (default: newest in the catalogue)",
        None,
        least=0,
        most=1e6,
        unit="USD/h",
        options=("--price",),
    ),
    _field(
        "plan.usd_per_hour",
        "number",
        "USD per device and hour, one for all or h100_sxm=2.5,l40s=0.9 (default: newest)",
        None,
        least=0,
        most=1e6,
        unit="USD/h",
        options=("--price",),
        also="Mapping[str, float]",
    ),
    _field("generic", "switch", "read an unknown model type as a plain decoder", False),
    # traffic
    _field(
        "trace",
        "text",
        "file (Vidur, Azure, BurstGPT, Mooncake, ShareGPT, vllm, aiperf, guidellm) or name (azure_conv, "
        "azure_code, mooncake_conversation); FILE#NAME picks one of several in a file",
        also="Path | Trace",
        column=True,
    ),
    _field("plan.trace", "text", "file or name of recorded traffic, as in simulate", also="Path | Trace", column=True),
    _field(
        "rate",
        "text",
        "requests per second: 4/s, 240/min; with --trace only its lengths are used",
        also="float",
        column=True,
    ),
    _field(
        "plan.rate",
        "text",
        "requests per second: 10/s, 600/min; with --trace only its lengths are used",
        also="float",
        column=True,
    ),
    _field(
        "concurrency",
        "whole",
        "closed loop: so many clients, each waiting for its answer",
        None,
        least=1,
        column=True,
    ),
    _field(
        "workflow",
        "text",
        "file of calls that wait for each other; --rate begins so many per second",
        also="Path",
        column=True,
    ),
    _field(
        "simulate.isl",
        "text",
        "prompt tokens: 2000, uniform:2000-6000, uniform:0.8-1.0x4000, lognormal:600, file:F (default: 1024)",
        also="int | Lengths",
        column=True,
    ),
    _field(
        "plan.isl",
        "text",
        "prompt tokens: 4000, uniform:2000-6000, lognormal:600 (default: 1024)",
        also="int | Lengths",
        column=True,
    ),
    _field(
        "simulate.osl",
        "text",
        "generated tokens, in the same words (default: 256)",
        also="int | Lengths",
        column=True,
    ),
    _field("plan.osl", "text", "generated tokens, in the same words (default: 256)", also="int | Lengths", column=True),
    _field(
        "requests",
        "whole",
        "how many (default: all of a trace, 1,000 drawn, 10 per client of a closed loop)",
        None,
        least=1,
        column=True,
    ),
    _field("plan.requests", "whole", "requests each finalist is simulated with", None),
    _field("duration", "text", "how long requests arrive, 10min", also="float", column=True),
    _field("start", "text", "leave out the beginning of a trace, 5min", also="float"),
    _field(
        "arrivals",
        "text",
        "poisson, constant, gamma:cv=3, onoff:on=10s,off=50s, diurnal:peak=2,period=24h (default: poisson)",
        column=True,
    ),
    _field("plan.arrivals", "text", "poisson, constant, gamma:cv=3, onoff:on=10s,off=50s (default: poisson)"),
    _field("burst", "number", "coefficient of variation of the gaps; short for --arrivals gamma:cv=", None, least=0),
    _field("peak", "text", "multiply the arrival rate, 3x", also="float", column=True),
    _field(
        "turns",
        "text",
        "conversations of so many turns with a growing prompt, 5 or uniform:1-9",
        also="int | Lengths",
        column=True,
    ),
    _field("think", "text", "time between an answer and the next request, 10s (mean, for conversations)", also="float"),
    _field("system", "whole", "tokens of a system prompt that all conversations share", 0, least=0),
    _field("best_of", "whole", "answers drawn for every prompt, which they share", None, least=1),
    _field("beam", "whole", "beams of equal length for every prompt, which they share", None, least=1),
    _field("seed", "whole", "fixes everything drawn", 0, least=0, show=True, column=True),
    # the engine beyond its scheduler
    _field(
        "policy",
        "name",
        "order of the queue: fcfs, priority, shortest, deadline, or FILE.py:CLASS of your own (runs it)",
        "fcfs",
        show=True,
        also="type[Policy] | Policy",
        column=True,
    ),
    _field(
        "techniques",
        "text",
        "a technique, NAME[:param=value,...], may be repeated",
        (),
        options=("--with",),
        several=True,
    ),
    _field(
        "speculate",
        "text",
        "guessed tokens: eagle:k=4, draft:llama-3.2-1b,k=4,accept=0.7, ngram:k=3, medusa:heads=4, mtp, "
        "tree:width=4,depth=4,by=medusa; any chain also ...,adaptive",
    ),
    _field(
        "plan.speculate",
        "text",
        "speculative decoding that may be used: 'draft:llama-3.2-1b,k=4,accept=0.7;ngram:k=3' (vllm)",
        also="Sequence[str]",
    ),
    _field(
        "lora",
        "text",
        "adapters drawn by popularity: 100 or 100,zipf=1,rank=16,targets=attention,max_loras=8,base=0.2",
    ),
    _field(
        "kv_tiers",
        "text",
        "cache levels below the device: cpu:200GB,ssd:2TB,pool:10TB@25GB/s/4; swap lets requests go there",
    ),
    _field("early_exit", "text", "tokens leave before the last layer: ramps=3,p=0.3 or rebatch:ramps=3"),
    _field("finetune", "text", "finetuning fills steps up to this time: 30ms or 30ms,context=2048"),
    _field("overlap", "name", "kernels beside each other: nanoflow or tokenweave"),
    # SLOs
    _field("ttft", "text", f"limit of the time to first token: {_TARGETS}"),
    _field("tpot", "text", "limit of the time per output token: p95:50ms"),
    _field("e2e", "text", "limit from arrival to the last token"),
    _field("plan.ttft", "text", f"limit of the time to first token: {_TARGETS}", column=True),
    _field("plan.tpot", "text", "limit of the time per output token: p95:50ms", column=True),
    _field("plan.e2e", "text", "limit from arrival to the last token", column=True),
    _field("stop_after_s", "number", "simulated time after which to stop, s", None, least=0, unit="s", options=("",)),
    # what a plan may use, and what is best
    _field(
        "objective",
        "name",
        "what the plan is best at",
        "cost",
        show=True,
        choices=("cost", "energy", "carbon", "throughput", "latency"),
        column=True,
    ),
    _field("budget", "text", "rent of the whole deployment at most: 40usd/h", None, also="float", column=True),
    _field("max_gpus", "whole", "devices of the whole deployment at most", None, least=1, column=True),
    _field("max_power", "text", "power of the whole deployment at most: 20kW", None, also="float"),
    _field("rack_power", "text", "power of one node at most: 8kW", None, also="float"),
    _field(
        "plan.engine",
        "text",
        "serving engines: vllm,sglang,trtllm, or any (default: the usual one)",
        options=("--engines", "--engine"),
        also="Sequence[str]",
    ),
    _field("formats", "text", "any = weights and KV cache in any format the machine computes in"),
    _field(
        "plan.weights",
        "text",
        "number formats of the weights, a list or any (default: as published)",
        also="Sequence[str]",
        column=True,
    ),
    _field(
        "plan.kv",
        "text",
        "number formats of the KV cache, a list or any (default: 16 bit)",
        also="Sequence[str]",
        column=True,
    ),
    _field(
        "mode",
        "text",
        "one pool, or prompts and answers apart",
        "any",
        show=True,
        choices=("any", "aggregated", "disaggregated"),
        also="Sequence[str]",
    ),
    _field("mix", "switch", "plan the best fleet of unlike machines as well", False),
    _field("headroom", "text", "hold this much more than the rate: 20%", 0.0, also="float", column=True),
    _field("spares", "whole", "replicas per pool that may fail while every SLO still holds", 0, least=0, column=True),
    _field("carbon", "number", "carbon intensity of the electricity, g/kWh", None, least=0, unit="g/kWh"),
    _field("remedies", "switch", "look for the nearest changes when nothing fits", True, options=("",)),
    _field("tell", "object", "called with what is being done, in words", None, also="Callable[[str], object]"),
)
_BY_NAME = {f.name: replace(f, name=f.name.rpartition(".")[2]) for f in _FIELDS}

_FORMATS = "weights activations kv communication tp pp dp ep cp"
_PLACE = f"on {_FORMATS} replicas disaggregate transfer_overlap encode_s mtbf restart outages autoscale migrate router"
_LOAD = (
    "trace rate concurrency workflow isl osl requests duration start arrivals burst peak turns think system best_of "
    "beam seed"
)
_SERVING = "engine policy flags speculate lora kv_tiers early_exit finetune overlap"

_PLAN = (
    "model rate isl osl trace arrivals peak ttft tpot e2e requests seed on objective budget max_gpus max_power "
    "rack_power engine formats weights kv mode speculate mix headroom spares usd_per_hour carbon skew generic "
    "remedies tell"
)

#: The fields of every verb, in the order of its help.
VERBS: dict[str, tuple[str, ...]] = {
    verb: tuple(names.split())
    for verb, names in (
        ("estimate", f"model on batch isl osl {_FORMATS} engine skew usd_per_hour generic"),
        ("simulate", f"model {_PLACE} skew usd_per_hour generic {_LOAD} {_SERVING} ttft tpot e2e stop_after_s"),
        ("plan", _PLAN),
    )
}
#: Kinds of question of a study.
KINDS = tuple(VERBS)

#: Fields by what they are about, where it matters: the static batch, the traffic, the SLOs.
GROUPS = {
    "batch": ("batch", "isl", "osl"),
    "load": (*_LOAD.split(), "stop_after_s"),
    "slo": ("ttft", "tpot", "e2e"),
}

#: Engine flags with an option of their own, by the name the engine configuration has for them.
ENGINE_FLAGS: dict[str, Field] = {
    f.name: f
    for f in (
        _field(
            "scheduler",
            "text",
            "another scheduler than the engine's own, such as vllm-v0, trtllm-max-utilization",
        ),
        _field(
            "max_num_batched_tokens",
            "whole",
            "tokens of one step",
            options=("--max-num-batched-tokens", "--chunked-prefill-size", "--max-num-tokens"),
        ),
        _field(
            "max_num_seqs",
            "whole",
            "requests running at once",
            options=("--max-num-seqs", "--max-running-requests", "--max-batch-size"),
        ),
        _field(
            "max_model_len",
            "whole",
            "longest prompt and answer",
            options=("--max-model-len", "--context-length", "--max-seq-len"),
        ),
        _field(
            "gpu_memory_utilization",
            "number",
            "share of device memory it may use",
            options=("--gpu-memory-utilization", "--mem-fraction-static", "--free-gpu-memory-fraction"),
        ),
        _field(
            "block_size",
            "whole",
            "tokens of one cache block",
            options=("--block-size", "--page-size", "--tokens-per-block"),
        ),
        _field(
            "num_gpu_blocks_override",
            "whole",
            "cache blocks per replica, instead of what fits",
            least=1,
            options=("--num-gpu-blocks", "--num-gpu-blocks-override"),
        ),
        _field("enable_prefix_caching", "switch", "share blocks of equal prefixes", None),
        _field("enable_chunked_prefill", "switch", "cut prompts to fill a step", None),
        _field("async_scheduling", "switch", "prepare the next step while the device works", None),
    )
}


@cache
def fields_of(verb: str) -> Mapping[str, Field]:
    """The fields of a verb by name, in the order of its help.

    Raises:
        UnknownName: no such verb.
    """
    if verb not in VERBS:
        raise UnknownName("verb", verb, VERBS)
    return {name: field(verb, name) for name in VERBS[verb]}


def field(verb: str, name: str) -> Field:
    """What a verb means by a name."""
    return _BY_NAME.get(f"{verb}.{name}") or _BY_NAME[name]


def study_fields(kind: str) -> dict[str, Field]:
    """The fields a study file may have for a kind of question: all but what only a program can give."""
    if kind not in VERBS:
        raise InputError(f"expected one of {', '.join(KINDS)}, got {kind!r}", field="kind")
    return {name: f for name, f in fields_of(kind).items() if f.type != "object"}
