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
from steelyard.scenario.train_table import PLAN_TRAINING, TRAIN, TRAIN_ROWS

__all__ = [
    "ALONE",
    "ENGINE_FLAGS",
    "FLAGS",
    "GROUPS",
    "KINDS",
    "NETWORK",
    "PRICE",
    "REQUIRED",
    "SKEW",
    "STATIC_FLAGS",
    "TOPICS",
    "UNSAID",
    "USUAL",
    "VERBS",
    "Field",
    "engine_flags",
    "field",
    "fields_of",
    "study_fields",
]

#: Stands for a field without a default.
REQUIRED: Any = ...

#: The field of the price of a device.
PRICE = "usd_per_hour"
#: The exponent of the popularity of experts.
SKEW = "skew"

#: Engine flags that a static batch depends on: fields of an estimate, and ``flags`` elsewhere.
STATIC_FLAGS = (
    "gpu_memory_utilization",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "sampling",
    "enforce_eager",
)
#: Fields of an estimate that answers name only where they are given.
UNSAID = (
    *("offload", "host", "network", "power_limit_w", "images", "audio", "recipe", "anchor", *STATIC_FLAGS),
    *("runtime", "precision", "layout", "size", "folding", "ring", "steps", "set", "train", "inputs"),
)

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
    topic: str = ""
    """What it is about, one of :data:`TOPICS`."""

    @property
    def option(self) -> str:
        """The name in messages of the command line: ``price`` for ``usd_per_hour``."""
        return self.options[0].lstrip("-").replace("-", "_") if self.options else self.name

    @property
    def switch(self) -> str:
        """The option as it is typed: ``--price``; of the model, the place where it stands."""
        return "MODEL" if self.name == "model" else (*self.options, "--" + self.name.replace("_", "-"))[0]

    @property
    def python(self) -> str:
        """The type as a Python annotation."""
        kinds = {"whole": "int", "number": "float", "name": "str", "text": "str", "switch": "bool", "object": ""}
        parts = [x for x in (kinds[self.type], self.also) if x]
        if self.several:
            parts = ["str", "Sequence[str]"]
        return " | ".join([*parts, *(["None"] if self.default is None else [])])


#: What fields are about, in the order of the help.
TOPICS = (
    *(
        "What runs",
        "Where it runs",
        "Traffic",
        "Rollouts",
        "The run",
        "SLOs",
        "What the plan chooses",
        "Engine",
        "Techniques",
    ),
)

#: ``name | type | default | attributes | meaning``, below a line ``[TOPIC]``. A default ``-`` is empty text. Attributes
#: are those of :class:`Field`, names that begin with ``--`` are its options, ``hidden`` = no option. ``||`` in a
#: meaning separates the note; an indented line goes on with the meaning.
_TABLE = """
[What runs]
model | name | required | column also=Model | catalogue name, or path of an HF config, a folder, a safetensors or a
    GGUF file
[Where it runs]
on | name | required | column also=Cluster/Machine | machine: NAME[:COUNT], or the path of a machine file
estimate.on | name | required | column also=Cluster/Machine | machine: NAME[:COUNT], unlike cards of one
    replica NAME+NAME, or the path of a machine file || ; several are separated by commas
plan.on | text | any | column show also=Sequence[str]/Cluster/Machine | machines: h100_sxm,h200_sxm,
    mi300x,l40s, or any; of one h100_sxm:8 at most so many
[What runs]
weights | name | - | column --weights --quantization | number format of the weights (default: as published)
activations | name | - | column | number format of activations (default: implied by the weights)
kv | name | - | column --kv --kv-cache-dtype | number format of the KV cache (default: 16 bit)
communication | name | - | column | number format of collectives (default: 16 bit)
[Where it runs]
tp | whole | none | least=1 most=1e+06 column --tp --tensor-parallel-size | tensor-parallel degree (default: what uses
    every device)
pp | whole | none | least=1 most=1e+06 column --pp --pipeline-parallel-size | pipeline-parallel degree
dp | whole | none | least=1 most=1e+06 column --dp --data-parallel-size | data-parallel degree (replicas)
simulate.dp | whole | none | least=1 most=1e+06 column --dp --data-parallel-size | data-parallel degree: replicas
    inside --on, fed by the router
ep | whole | 1 | least=1 most=1e+06 column | expert-parallel degree
cp | whole | 1 | least=1 most=1e+06 column | context-parallel degree
[Engine]
engine | name | - | --engine --backend column | serving engine: vllm, sglang, trtllm, llamacpp, ollama, mlx, ...
    (steelyard ls engines); vllm@0.6 is an earlier one
simulate.engine | name | - | --engine --backend column | vllm, sglang, trtllm, llamacpp; or a scheduler: static, orca,
    tgi, sarathi
flags | object | none | also=Mapping[str,Any] | the engine's own flags, by its own names
[Traffic]
batch | whole | 1 | least=1 most=1e+09 column --batch --concurrency --max-concurrency --users | requests, or users, in
    flight at once || : a number, a list 1,2,4, a range 1-256*2 or 1-10+3
isl | whole | 1024 | least=1 most=1e+08 column --isl --input-len | prompt tokens per request
osl | whole | 256 | least=1 most=1e+08 column --osl --output-len | generated tokens per request
images | text | - | - | images of each request, HEIGHTxWIDTH in pixels: 2x1024x1024 (two), 1080p; of a mixture the mean
    of each: 0.2x512x512,0.8x720p
estimate.images | text | - | - | images of each request, HEIGHTxWIDTH in pixels: 2x1024x1024 (two), 1080p; several sizes
    are separated by commas
audio | text | - | - | sounds of each request: 30s, 2x30s
[Where it runs]
replicas | whole | 1 | least=1 most=100000 column | copies of the whole deployment that --on describes
disaggregate | text | - | column | pools for prompts (P), answers (D), encoders (E) or both (M): 1P:tp8,1D:tp8 or
    2P:tp4@h100_sxm,1D:tp8dp2; attention and feed-forward devices: 1A:8@h20,1F:8@h800; shares of the same devices:
    semi:0.6 for prompts
transfer_overlap | number | 0.0 | least=0 most=1 | share of a KV cache that is sent while its prompt is computed
    (default: 0, pulled afterwards)
encode_s | number | none | least=0 most=1e+09 unit=s --encode | time of an encoder before each prompt, 50ms, with a
    pool E
encode_spread | whole | 1 | least=1 most=100000 | encoders of a pool E that share the images of one request
mtbf | text | - | also=float | mean time between failures of a replica, 6h (default: none fails)
restart | text | - | also=float | until a failed replica serves again (default: 3min)
outages | text | - | also=Sequence[Outage] | given failures, TIME:REPLICA:down or :up, separated by commas
autoscale | text | - | also=Autoscale | LEAST:MOST replicas by load, 1:8 or 1:8,target=16,interval=30s,start=2min
migrate | switch | false | - | running requests move to the replica with most room (Llumnix)
[Traffic]
router | name | round-robin | column show choices=round-robin,random,least-loaded,session,prefix | which replica gets
    a request: round-robin, random, least-loaded, session, prefix
[What runs]
runtime | name | - | - | of a network: what runs it: eager, compile, tensorrt, onnxruntime, coreml, ... (steelyard
    ls runtimes; default: the usual one of the machine)
precision | name | - | choices=fp32,tf32,fp16,bf16,amp,amp-bf16,int8,int16,w8a16,fp8,w4a4,w3a3,w2a2,w1a1 | of a network:
    fp32, tf32, fp16, bf16, amp, amp-bf16, int8, int16, w8a16, fp8, w4a4 ... w1a1 (default: the runtime's)
layout | name | - | choices=nchw,nhwc | of a network: order of images in memory, nchw or nhwc (default: the runtime's)
size | text | - | - | of a network: its input, 288, 1024x768 (default: the usual one)
ring | whole | none | least=1 most=1024 | of a diffusion pipeline: as many of the --cp devices that share an item
    pass keys and values around; the others exchange heads
steps | whole | none | least=1 most=10000 | of a diffusion pipeline: denoising steps (default: the usual ones)
folding | text | - | - | of a network on an FPGA: how often each multiplier is used a pixel, 144 or 96,512,2048
    (hls4ml's reuse factors), or PE x SIMD of each layer, 16x3,32x32 (default: chosen for the device)
set | text | - | - | of a network: other open sizes and parameters, NAME=NUMBER, separated by commas: tokens=384
train | switch | false | - | of a network: a training step: forward, backward and optimizer
inputs | object | none | also=tuple[Any,...] | of a torch module: the tensors of its forward pass
[What runs]
skew | number | 0.0 | least=0 most=1000 column | exponent of the power law of expert popularity; 0 = balanced
[Where it runs]
usd_per_hour | number | none | least=0 most=1e+06 unit=USD/h --price | USD per device and hour (default: newest in the
    catalogue)
plan.usd_per_hour | number | none | least=0 most=1e+06 unit=USD/h --price also=Mapping[str,float] | USD per device and
    hour, one for all or h100_sxm=2.5,l40s=0.9 (default: newest)
[What runs]
generic | switch | false | - | read a model type nobody described, whatever is not understood
[Traffic]
recipe | text | - | - | conditions of a published benchmark: a name (steelyard ls recipes) or a file; what is said
    besides wins
[Where it runs]
anchor | text | - | - | a measured run of yours that moves the times: a name or a file (steelyard calibrate --anchor)
[Traffic]
trace | text | - | column also=Path/Trace | file (Vidur, Azure, BurstGPT, Mooncake, ShareGPT, vllm, aiperf, guidellm)
    or name (azure_conv, azure_code, mooncake_conversation); FILE#NAME picks one of several in a file
plan.trace | text | - | column also=Path/Trace | file or name of recorded traffic, as in simulate
rate | text | - | column also=float --rate --request-rate | requests per second: 4/s, 240/min, or inf: all at once;
    with --trace only its lengths are used
plan.rate | text | - | column also=float --rate --request-rate | requests per second: 10/s, 600/min; with --trace only
    its lengths are used
concurrency | whole | none | least=1 most=200000 column --concurrency --max-concurrency --users | closed loop: so many
    clients, each waiting for its answer
workflow | text | - | column also=Path | file of calls that wait for each other; --rate begins so many per second
simulate.isl | text | - | column also=int/Lengths --isl --input-len | prompt tokens: 2000, uniform:2000-6000,
    uniform:0.8-1.0x4000, lognormal:600, file:F (default: 1024)
plan.isl | text | - | column also=int/Lengths --isl --input-len | prompt tokens: 4000, uniform:2000-6000, lognormal:600
    (default: 1024)
simulate.osl | text | - | column also=int/Lengths --osl --output-len | generated tokens, in the same words (default:
    256)
plan.osl | text | - | column also=int/Lengths --osl --output-len | generated tokens, in the same words (default: 256)
requests | whole | none | least=1 most=2e+06 column --requests --num-prompts | how many (default: all of a trace, 1,000
    drawn, 10 per client of a closed loop)
plan.requests | whole | none | least=1 most=2e+06 --requests --num-prompts | requests each finalist is simulated with
duration | text | - | column also=float | how long requests arrive, 10min
start | text | - | also=float | leave out the beginning of a trace, 5min
arrivals | text | - | column | poisson, constant, gamma:cv=3, onoff:on=10s,off=50s, diurnal:peak=2,period=24h
    (default: poisson)
plan.arrivals | text | - | - | poisson, constant, gamma:cv=3, onoff:on=10s,off=50s (default: poisson)
burst | number | none | least=0 most=1e+06 | coefficient of variation of the gaps; short for --arrivals gamma:cv=
peak | text | - | column also=float | multiply the arrival rate, 3x
turns | text | - | column also=int/Lengths | conversations of so many turns with a growing prompt, 5 or uniform:1-9
think | text | - | also=float | time between an answer and the next request, 10s (mean, for conversations)
system | whole | 0 | least=0 most=1e+08 | tokens that every prompt begins with, before those of --isl: a system prompt
    that all requests or conversations share
priorities | text | - | - | priorities of requests, drawn: shares of 0 (served first), 1, ...: 0.2,0.8; the
    policies priority and priority-preempt serve by them
best_of | whole | none | least=1 most=1000 | answers drawn for every prompt, which they share
beam | whole | none | least=1 most=1000 | beams of equal length for every prompt, which they share
seed | whole | 0 | least=0 most=1e+18 column show | fixes everything drawn
[Engine]
policy | name | fcfs | column show also=type[Policy]/Policy | order of the queue: fcfs, priority, shortest, deadline,
    or FILE.py:CLASS of your own (runs it)
[Where it runs]
offload | text | - | - | weights in host memory: experts, experts:36 (of 36 layers), layers:20 (20 stay on the
    devices) or cpu:8GB of each; llama.cpp and KTransformers compute with them there, others stream them (computed,
    streamed) || ; also as -ngl, --n-cpu-moe, --cpu-moe, -ot, --cpu-offload-gb
host | text | - | - | processor and memory of the host where weights lie there: ddr5-5600x2, ddr4-3200x8:256GB, a
    processor of the catalogue (default: what the device usually has)
network | text | - | - | network between nodes: infiniband_ndr, roce_400, ethernet_10; a port for every device, of TCP
    one for every node; ethernet_25:6.25GB/s, that much for a node (default: as such nodes usually have)
power_limit_w | number | none | least=1 most=1e+06 unit=W --power-limit | power each device is held to, as by
    nvidia-smi -pl; above the rated one it changes nothing || ; also in the name: "RTX 3090 220W"
[Techniques]
techniques | text | - | --with several column | a technique, NAME[:value,param=value,...]: fp8-kv,
    sarathi-serve:chunk=512; may be repeated (steelyard ls techniques)
speculate | text | - | - | guessed tokens: eagle:k=4, draft:llama-3.2-1b,k=4,accept=0.7, ngram:k=3, medusa:heads=4,
    mtp, tree:width=4,depth=4,by=medusa; any chain also ...,adaptive
plan.speculate | text | - | also=Sequence[str] | speculative decoding that may be used:
    'draft:llama-3.2-1b,k=4,accept=0.7;ngram:k=3' (vllm)
lora | text | - | - | adapters drawn by popularity: 100 or 100,zipf=1,rank=16,targets=attention,max_loras=8,base=0.2
kv_tiers | text | - | - | cache levels below the device: cpu:200GB,ssd:2TB,pool:10TB@25GB/s/4; swap lets requests go
    there
early_exit | text | - | - | tokens leave before the last layer: ramps=3,p=0.3 or rebatch:ramps=3
finetune | text | - | - | finetuning fills steps up to this time: 30ms or 30ms,context=2048
overlap | name | - | - | kernels beside each other: nanoflow or tokenweave
[SLOs]
ttft | text | - | - | limit of the time to first token: p99:1s, mean:500ms, or 1s (p99)
tpot | text | - | - | limit of the time per output token: p95:50ms
itl | text | - | - | limit of the time between two tokens, of all requests together: p99:100ms
max_itl | text | - | - | limit of the longest time between two tokens of a request, which goodput counts too: p95:500ms
e2e | text | - | - | limit from arrival to the last token
capacity | switch | false | - | look for the largest rate at which every SLO holds, and simulate that
plan.ttft | text | - | column | limit of the time to first token: p99:1s, mean:500ms, or 1s (p99)
plan.tpot | text | - | column | limit of the time per output token: p95:50ms
plan.e2e | text | - | column | limit from arrival to the last token
[Traffic]
stop_after_s | number | none | least=0 most=1e+12 unit=s hidden | simulated time after which to stop, s
[What the plan chooses]
objective | name | cost | column show choices=cost,energy,carbon,throughput,latency | what the plan is best
    at: cost, energy, carbon, throughput, latency
budget | text | none | column also=float | rent of the whole deployment at most: 40usd/h
max_gpus | whole | none | least=1 most=1e+09 column | devices of the whole deployment at most
max_power | text | none | also=float | power of the whole deployment at most: 20kW
rack_power | text | none | also=float | power of one node at most: 8kW
plan.engine | text | - | --engines --engine also=Sequence[str] | serving engines: vllm,sglang,trtllm, or any (default:
    the usual one)
formats | text | - | - | any = weights and KV cache in any format the machine computes in
plan.weights | text | - | column also=Sequence[str] --weights --quantization | number formats of the weights, a list or
    any (default: as published)
plan.kv | text | - | column also=Sequence[str] --kv --kv-cache-dtype | number formats of the KV cache, a list or any
    (default: 16 bit)
mode | text | any | show choices=any,aggregated,disaggregated also=Sequence[str] | aggregated: one pool;
    disaggregated: prompts and answers apart; or any
mix | switch | false | - | plan the best fleet of unlike machines as well
headroom | text | 0.0 | column also=float | hold this much more than the rate: 20%
spares | whole | 0 | least=0 most=100000 column | replicas per pool that may fail while every SLO still holds
sure | text | 0.8 | column show also=float | the chance with which every SLO and the rate must hold: 0.8 or 80%
against | text | - | - | beside a hosted model: api (the cheapest known), a provider, or USD per million 0.2/0.6
scale_to_zero | text | - | - | replicas start on demand and stop after so long without work: 5min or 5min,start=90s
years | number | 3.0 | least=0.1 most=50 | years over which bought devices are written off
power_price | number | 0.1 | least=0 most=100 unit=USD/kWh | price of power where devices are bought
carbon | number | none | least=0 most=1e+06 unit=g/kWh | carbon intensity of the electricity, g/kWh
remedies | switch | true | hidden | look for the nearest changes when nothing fits, else for what certainty costs
tell | object | none | also=Callable[[str],object] | called with what is being done, in words
"""
#: Engine flags with an option of their own, by the name the engine configuration has for them.
_FLAG_TABLE = """
[Engine]
scheduler | text | - | - | another scheduler than the engine's own, such as vllm-v0, trtllm-max-utilization
max_num_batched_tokens | whole | none | least=1 most=1e+09 --max-num-batched-tokens --chunked-prefill-size
    --max-num-tokens | tokens of one step
max_num_seqs | whole | none | least=1 most=1e+06 --max-num-seqs --max-running-requests --max-batch-size |
    requests running at once
max_model_len | whole | none | least=0 most=1e+09 --max-model-len --context-length --max-seq-len |
    longest prompt and answer
gpu_memory_utilization | number | none | least=0 most=1 --gpu-memory-utilization --mem-fraction-static
    --free-gpu-memory-fraction | share of device memory it may use
block_size | whole | none | least=1 most=1e+06 --block-size --page-size --tokens-per-block | tokens of one cache block
num_gpu_blocks_override | whole | - | least=1 --num-gpu-blocks --num-gpu-blocks-override | cache blocks per replica,
    instead of what fits
enable_prefix_caching | switch | none | - | share blocks of equal prefixes
mamba_cache_mode | text | - | --mamba-cache-mode | recurrent states that vLLM keeps for prefixes: none, align, all
max_mamba_cache_size | whole | - | --max-mamba-cache-size | recurrent states that SGLang keeps at once
mamba_full_memory_ratio | number | - | --mamba-full-memory-ratio | memory for states on SGLang, of the other cache's
enable_chunked_prefill | switch | none | - | cut prompts to fill a step
sampling | text | none | choices=greedy,random,top-p --sampling | how tokens are chosen: the best, drawn, or drawn
    with top-p or top-k (default: greedy)
enforce_eager | switch | none | --enforce-eager --disable-cuda-graph | no captured graphs: the host launches each
    kernel
async_scheduling | switch | none | - | prepare the next step while the device works
api_server_count | whole | none | least=0 most=4096 --api-server-count | processes that tokenise and stream, of each
    replica; 0 for an offline run
stream_interval | whole | none | least=1 most=1e+06 --stream-interval | tokens gathered before a client is sent any
scheduler_recv_interval | whole | none | least=1 most=1e+06 --scheduler-recv-interval | steps of SGLang between two
    looks for new requests
"""


def _read(table: str) -> list[Field]:
    """The fields of a table, each with its whole name."""
    lines: list[str] = []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    found, topic = [], ""
    for line in lines:
        if line.startswith("["):
            topic = line.strip("[]")
        else:
            found.append(_field(topic, *(part.strip() for part in line.split(" | ", 4))))
    return found


def _field(topic: str, name: str, kind: str, default: str, attributes: str, meaning: str) -> Field:
    words = attributes.split() if attributes != "-" else []
    given = dict(word.split("=", 1) for word in words if "=" in word)
    doc, _, note = meaning.partition(" || ")
    return Field(
        name,
        kind,
        doc,
        _default(kind, default) if "several" not in words else (),
        float(given.get("least", -math.inf)),
        float(given.get("most", math.inf)),
        given.get("unit", "1"),
        ("",) if "hidden" in words else tuple(word for word in words if word.startswith("--")),
        note,
        "show" in words,
        tuple(given["choices"].split(",")) if "choices" in given else (),
        given.get("also", "").replace("/", " | ").replace(",", ", "),
        "column" in words,
        "several" in words,
        topic,
    )


def _default(kind: str, text: str) -> Any:
    known: dict[str, Any] = {"required": REQUIRED, "none": None, "true": True, "false": False, "-": ""}
    if text in known:
        return known[text]
    if kind == "whole":
        return int(text)
    return float(text) if kind == "number" or text.replace(".", "").isdecimal() else text


#: Every field by its whole name.
_BY_NAME = {f.name: replace(f, name=f.name.rpartition(".")[2]) for f in [*_read(_TABLE), *_read(TRAIN_ROWS)]}
ENGINE_FLAGS: dict[str, Field] = {f.name: f for f in _read(_FLAG_TABLE)}

_BATCH = "batch isl osl"
_SHOWN = "images audio"
_FORMATS = "weights activations kv communication tp pp dp ep cp"
_PLACE = (
    f"on {_FORMATS} replicas disaggregate transfer_overlap encode_s encode_spread mtbf restart outages "
    "autoscale migrate router"
)
_LOAD = (
    f"trace rate concurrency workflow isl osl {_SHOWN} requests duration start arrivals burst peak turns think system "
    "priorities best_of beam seed"
)
_HELD = "offload host network power_limit_w"
_TOLD, _STATIC = "skew usd_per_hour generic recipe anchor", " ".join(STATIC_FLAGS)
_SERVING = f"engine {_HELD} policy flags techniques speculate lora kv_tiers early_exit finetune overlap"

_NET = "runtime precision layout size folding ring steps set train inputs"

_PLAN = (
    f"model rate concurrency isl osl {_SHOWN} system trace arrivals peak ttft tpot e2e requests seed on objective "
    "budget max_gpus max_power rack_power engine formats weights kv mode techniques speculate mix headroom spares sure "
    "usd_per_hour years power_price carbon against scale_to_zero skew power_limit_w generic recipe anchor remedies tell"
)

#: The fields of every verb, in the order of its help.
VERBS: dict[str, tuple[str, ...]] = {
    verb: tuple(names.split())
    for verb, names in (
        ("estimate", f"model on {_BATCH} {_SHOWN} {_FORMATS} engine {_STATIC} {_HELD} techniques {_TOLD} {_NET}"),
        ("simulate", f"model {_PLACE} {_TOLD} {_LOAD} {_SERVING} ttft tpot itl max_itl e2e capacity stop_after_s"),
        ("plan", _PLAN),
        ("train", TRAIN),
        ("plan_training", PLAN_TRAINING),
    )
}
#: Fields of an estimate that are of networks alone, which are not served token by token; and all that these have.
ALONE = tuple(_NET.split())
NETWORK = ("model", "on", "batch", "tp", "cp", PRICE, "power_limit_w", "techniques", *ALONE)
#: Fields most questions give, which the help shows first.
_USUAL = "on batch rate concurrency trace isl osl requests weights tp engine ttft tpot e2e objective max_gpus"
USUAL = frozenset(_USUAL.split())

#: Kinds of question of a study.
KINDS = ("estimate", "simulate", "plan", "train")

#: Fields by what they are about, where it matters: the static batch, the traffic, the SLOs, what requests show beside
#: text, what the planner chooses.
GROUPS = {
    "batch": tuple(_BATCH.split()),
    "load": (*_LOAD.split(), "stop_after_s"),
    "slo": ("ttft", "tpot", "itl", "max_itl", "e2e", "capacity"),
    "shown": tuple(_SHOWN.split()),
    "chosen": tuple(f"batch {_FORMATS} replicas disaggregate transfer_overlap router flags stop_after_s".split())
    + STATIC_FLAGS,
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
    """What a verb means by a name; a plan of training means what training does."""
    kinds = (verb, "train") if verb == "plan_training" else (verb,)
    found = next((f for k in kinds if (f := _BY_NAME.get(f"{k}.{name}"))), None)
    return found or _BY_NAME.get(name) or ENGINE_FLAGS[name]


def engine_flags(verb: str) -> Mapping[str, Field]:
    """Engine flags with an option of their own that a verb takes."""
    if "flags" in VERBS[verb]:
        return ENGINE_FLAGS
    return {name: ENGINE_FLAGS[name] for name in STATIC_FLAGS if name in VERBS[verb]}


def study_fields(kind: str) -> dict[str, Field]:
    """The fields a study file may have for a kind of question: all but what only a program can give."""
    if kind not in VERBS:
        raise InputError(f"expected one of {', '.join(KINDS)}, got {kind!r}", field="kind")
    return {name: f for name, f in fields_of(kind).items() if f.type != "object"}
