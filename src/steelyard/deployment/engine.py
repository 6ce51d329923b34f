"""Serving engines as data: what they reserve, how they batch, what a step costs beside the kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal

from steelyard.documents import build, build_file, named
from steelyard.errors import InputError, UnknownName, normalise, show
from steelyard.folders import catalogue_files
from steelyard.machine.classes import family_named, kinds, stack_named
from steelyard.machine.component import Machine
from steelyard.units import Quantity

__all__ = [
    "ADMISSIONS",
    "UNMOVED",
    "VICTIMS",
    "Engine",
    "KernelSpeed",
    "Lack",
    "Limits",
    "Moved",
    "Rules",
    "Usual",
    "default_engine",
    "engines",
    "find_engine",
    "reload_engines",
    "schedulers",
]

#: The fastest PCIe link there is (6.0, 16 lanes, one direction): what is faster is a link between devices.
PCIE_BYTES_PER_S = 128e9
#: What must be free before a waiting request is admitted: blocks for the tokens of this step; for the whole prompt;
#: for prompt and output, kept from then on; for the prompt beside an estimate of what the running ones still need; or
#: for what all will hold at the fullest, by the lengths of past outputs.
ADMISSIONS = ("step", "prompt", "whole", "estimate", "past-future")
#: Who is preempted when blocks run out: the last admitted; the last by the policy's order; the shortest output so far.
VICTIMS = ("last", "worst", "shortest_answer")


#: How a token is chosen from its scores: the largest; drawn from all; drawn from those that top-p or top-k leave.
Sampling = Literal["greedy", "random", "top-p"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a scheduler decides, beside its limits."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    mixed: Annotated[bool, "prompts and decodes share a step; otherwise prompts go first, alone"]
    chunked: Annotated[bool, "a prompt may be cut to fill the token budget"]
    admission: Annotated[
        Literal["step", "prompt", "whole", "estimate", "past-future"], "what must be free before a request is admitted"
    ]
    victim: Annotated[Literal["last", "worst", "shortest_answer"], "who is preempted when blocks run out"] = "last"
    to_back: Annotated[bool, "a preempted request goes to the end of the queue, not to its place by the order"] = False
    static: Annotated[bool, "a batch forms when the last one is done and stays until its longest output ends"] = False
    watermark: Annotated[float, Quantity("1", "share of the blocks kept free at admission", ge=0, le=1)] = 0.0
    cutting: Annotated[str, "the scheduler that runs in its place where prompts are cut; empty = itself"] = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine lowers its limits to on some devices; the first entry that holds is taken."""

    __pydantic_config__ = {"extra": "forbid"}

    max_batched_tokens: Annotated[float, Quantity("1", "tokens of one step at most", ge=1)]
    max_sequences: Annotated[float, Quantity("1", "sequences of one step at most; 0 = as elsewhere", ge=0)] = 0.0
    below_bytes: Annotated[float, Quantity("B", "devices with less memory; 0 = any", ge=0)] = 0.0
    kind: Annotated[str, "kind of machine; empty = any"] = ""
    machine: Annotated[str, "beginning of the machine's name; empty = any"] = ""

    def holds(self, machine: Machine) -> bool:
        """Whether a machine is meant."""
        small = not self.below_bytes or machine.root.capacity_bytes < self.below_bytes
        return small and self.kind in ("", machine.kind) and machine.name.startswith(self.machine)


@dataclass(frozen=True, slots=True)
class KernelSpeed:
    """How an engine's own kernels differ from the ones that were benchmarked for a machine family and format.

    ``time = (benchmarked - saved_s) / ratio``, the ratio between ``stream`` where reading binds and ``arithmetic``
    where multiplying does; never below the physical limit. ``saved_s`` is what a kernel's launch, prologue and side
    kernels cost alone and do not in a captured graph, where they run under the kernel before.
    """

    __pydantic_config__ = {"extra": "forbid"}

    kind: Annotated[str, "kind of kernel: gemm (products) or moe (experts)"]
    family: Annotated[str, "machine family, such as hopper"]
    format: Annotated[str, "format of the weights; empty = any"] = ""
    stream: Annotated[float, Quantity("1", "speed where reading binds, 1 = as benchmarked", gt=0)] = 1.0
    arithmetic: Annotated[float, Quantity("1", "speed where multiplying binds, 1 = as benchmarked", gt=0)] = 1.0
    saved_s: Annotated[float, Quantity("s", "of each call, hidden under the kernel before it")] = 0.0


@dataclass(frozen=True, slots=True)
class Usual:
    """Formats that an engine is the usual one for, whatever else is usual on a machine."""

    __pydantic_config__ = {"extra": "forbid"}

    formats: Annotated[tuple[str, ...], "of weights; `gguf` = every block format of GGUF files"]
    on: Annotated[tuple[str, ...], "classes of machines: vendor, kind, stack or family; empty = all it runs on"] = ()


@dataclass(frozen=True, slots=True)
class Lack:
    """Weights or a cache an engine has no kernels for, on some machines or all."""

    __pydantic_config__ = {"extra": "forbid"}

    formats: Annotated[tuple[str, ...], "formats of weights; `gguf` = those of GGUF files"] = ()
    kv: Annotated[tuple[str, ...], "formats of the cache"] = ()
    methods: Annotated[tuple[str, ...], "quantisation methods, as `quant_method` of configs names them"] = ()
    on: Annotated[tuple[str, ...], "classes of machines: vendor, kind, stack or family; empty = all it runs on"] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """How far an engine's times are moved by a measured run of the user's, and how much better they are known then."""

    __pydantic_config__ = {"extra": "forbid"}

    step: Annotated[float, Quantity("1", "steps take so many times as long as priced", gt=0)] = 1.0
    first: Annotated[float, Quantity("1", "first tokens come so many times as late as the steps say", gt=0)] = 1.0
    step_spread: Annotated[float, Quantity("1", "spread of a step's time over the one without", gt=0)] = 1.0
    first_spread: Annotated[float, Quantity("1", "the same of the further spread of first tokens", gt=0)] = 1.0


UNMOVED = Moved()


@dataclass(frozen=True, slots=True)
class Engine:
    """One serving engine with its own defaults."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    memory_frac: Annotated[float, Quantity("1", "share of device memory the engine may use", gt=0, le=1)]
    block_tokens: Annotated[float, Quantity("1", "tokens of one KV-cache block", ge=1)]
    max_batched_tokens: Annotated[float, Quantity("1", "tokens of one step at most", ge=1)]
    max_sequences: Annotated[float, Quantity("1", "sequences of one step at most", ge=1)]
    workspace_bytes: Annotated[float, Quantity("B", "libraries, communication buffers, workspaces", ge=0)]
    step_s: Annotated[float, Quantity("s", "host time per step that the device waits for", ge=0)]
    step_s_per_sequence: Annotated[float, Quantity("s", "further host time per sequence of the step", ge=0)]
    layer_s: Annotated[float, Quantity("s", "device time per layer beside the priced kernels", ge=0)]
    request_s: Annotated[float, Quantity("s", "tokenise, HTTP, first detokenise, once per request", ge=0)]
    guess_s: Annotated[
        float, Quantity("s", "per pass of a guesser of tokens beside its kernels: launch, sampling, preparation", ge=0)
    ] = 0.0
    verify_s: Annotated[
        float, Quantity("s", "per step that verifies guesses beside its kernels: acceptance, host between steps", ge=0)
    ] = 0.0
    adapter_s: Annotated[
        float, Quantity("s", "host time of a step with LoRA adapters that the device waits for", ge=0)
    ] = 0.0
    front_s: Annotated[
        float, Quantity("s", "of `request_s`, what its API server does for one request after another", ge=0)
    ] = 0.0
    stream_s: Annotated[
        float, Quantity("s", "what its API server does for every token of an answer, beside the engine", ge=0)
    ] = 0.0
    launch_s: Annotated[
        float, Quantity("s", "host time per kernel of a step that is no captured graph; 0 = the machine's usual", ge=0)
    ] = 0.0
    served_step_s: Annotated[
        float, Quantity("s", "host time of a served step over several devices, in the API server's own process", ge=0)
    ] = 0.0
    adds_apart: Annotated[
        bool, "residuals before layer norms and biases after partial sums have kernels of their own"
    ] = False
    cache_copies: Annotated[
        float, Quantity("1", "times a decode step moves the whole cache beside attention: 2 = read and written", ge=0)
    ] = 0.0
    expands_groups: Annotated[bool, "a decode step first copies keys and values to every query head"] = False
    kernels: tuple[KernelSpeed, ...] = ()
    """Its kernels where they differ from the benchmarked ones."""
    graph_tokens: Annotated[
        float, Quantity("1", "steps with prompts of up to so many tokens are captured graphs too", ge=0)
    ] = 0.0
    graph: Annotated[bool, "decode steps are captured graphs; otherwise every kernel is launched from the host"] = True
    block_products: Annotated[
        Literal["", "integer", "widened"],
        "llama.cpp's products, where their speed is known: blocks as integers or widened to 16 bits; empty = none",
    ] = ""
    fused_quantisation: Annotated[bool, "activations are quantised inside the kernel before a product"] = False
    experts: Annotated[
        Mapping[str, str], "its grouped product of experts, by `family/format` or family; else what was measured"
    ] = field(default_factory=dict)
    attention: Annotated[str, "its own attention kernel, where the stack has such; empty = what the family runs"] = ""
    expert_multiples: Annotated[
        Mapping[str, tuple[int, int]],
        "hidden and inner width of MXFP4 experts are padded to multiples of these, by family; empty name = others",
    ] = field(default_factory=dict)
    index_kernels: Annotated[
        float, Quantity("1", "kernels that make the queries of a sparse attention's indexer ready", ge=0)
    ] = 0.0
    all_reduce: Annotated[str, "the library whose all-reduce it uses"] = "nccl"
    scheduler: Annotated[str, "how it schedules: a `[[scheduler]]` of the catalogue"] = "static"
    prefix_caching: Annotated[bool, "prompts find the cache of earlier ones by default"] = False
    async_scheduling: Annotated[bool, "the host prepares the next step while the device works"] = False
    memory_frac_of: Annotated[
        Literal["device", "static", "free"],
        "what its share of memory is of: the device; the device, working memory beside; what weights and work leave",
    ] = "device"
    limits: Annotated[tuple[Limits, ...], "its limits on smaller devices"] = ()
    flags: Annotated[Mapping[str, str], "its own names of flags, and ours"] = field(default_factory=dict)
    values: Annotated[Mapping[str, Mapping[str, str]], "of our flags: its own values, normalised, and ours"] = field(
        default_factory=dict
    )
    peer_bytes: Annotated[float, Quantity("B", "buffers of two devices of tensor parallelism, direct link", ge=0)] = 0.0
    next_peer_bytes: Annotated[float, Quantity("B", "the same for every device beyond two", ge=0)] = 0.0
    graph_bytes: Annotated[float, Quantity("B", "captured graphs", ge=0)] = 0.0
    graphs_in_share: Annotated[bool, "captured graphs are counted before the cache is sized"] = False
    logit_bytes: Annotated[float, Quantity("B", "of each score of the vocabulary while sampling", ge=0)] = 4.0
    whole_logits: Annotated[bool, "all tokens of a prompt are scored, and the scores kept, not the last alone"] = False
    filter_bytes: Annotated[
        float, Quantity("B", "moved per score where tokens are drawn with top-p or top-k, as if it streamed", ge=0)
    ] = 64.0
    relays_first: Annotated[bool, "of pools for prompts and for answers, the latter send the first token too"] = False
    sampling: Annotated[Sampling, "how requests choose tokens, unless a flag says otherwise"] = "greedy"
    partial_sums: Annotated[
        float, Quantity("1", "copies of a product's outputs with 4-bit weights, added afterwards; 0 = none", ge=0)
    ] = 0.0
    whole_prompts: Annotated[
        float, Quantity("1", "the longest request is the default budget of a step up to so many; 0 = no", ge=0)
    ] = 0.0
    grouped_pages: Annotated[
        bool, "layers of a mixed model are in groups of equal size that share pages; a state takes a page"
    ] = False
    profiles_images: Annotated[bool, "towers run on their largest images before the cache is sized"] = False
    prints_requests: Annotated[
        bool, "the size of the cache it prints is what requests of the longest length hold, not blocks over groups"
    ] = False
    window_share: Annotated[
        float, Quantity("1", "tokens that layers with a window keep per token of the others; 0 = the window's", ge=0)
    ] = 0.0
    window_types: Annotated[tuple[str, ...], "model types this holds of; of others such layers keep every token"] = ()
    states: Annotated[
        Literal["", "ahead", "share"],
        "recurrent states beside the blocks: one for each of max_num_seqs, or a share; empty = among the blocks",
    ] = ""
    state_share: Annotated[float, Quantity("1", "bytes for states per byte for the other cache", ge=0)] = 0.0
    state_copies: Annotated[float, Quantity("1", "states a running request holds where prefixes are shared", ge=1)] = (
        1.0
    )
    splits_layers: Annotated[
        bool, "devices take layers, one after the other, unless a degree of tensor parallelism is asked for"
    ] = False
    fused_layers: Annotated[
        float,
        Quantity("1", "share of the peaks that a layer sustains as one pipeline on the chip; 0 = it is none", ge=0),
    ] = 0.0
    whole_ends: Annotated[bool, "one device of tensor parallelism has all of the embedding and of the head"] = False
    compared: Annotated[bool, "a plan with any engine tries it"] = False
    commands: Annotated[
        Literal["", "vllm", "sglang", "trtllm", "llamacpp"], "whose commands start it; empty = no launch files"
    ] = ""
    narrower: Annotated[
        tuple[str, str, str], "formats to try where a model does not fit: of the cache, of weights, of weights again"
    ] = ("fp8", "fp8", "int4")
    converts: Annotated[
        Mapping[str, str], "what models published in a format it does not read are converted to, by that format"
    ] = field(default_factory=dict)
    version: Annotated[str, "release that its figures and defaults are of"] = ""
    released: Annotated[str, "year and month of that release; empty = not known"] = ""
    source: Annotated[str, "where its defaults and figures are from, with the date they were read"] = ""
    generation_of: Annotated[str, "the engine this is an earlier generation of"] = ""
    baseline: Annotated[bool, "what papers compare with: runs only where it is named"] = False
    runs_on: Annotated[
        tuple[str, ...], "classes of machines it runs on: vendor, kind, stack or family; empty = any"
    ] = ()
    not_on: Annotated[tuple[str, ...], "of those the ones it does not run on"] = ()
    variants: Annotated[Mapping[str, str], "the entry with its figures on a stack"] = field(default_factory=dict)
    usual: Annotated[tuple[Usual, ...], "what it is the usual engine for"] = ()
    no_weights: Annotated[tuple[str, ...], "formats of weights it cannot read; `gguf` = those of GGUF files"] = ()
    lacks: Annotated[tuple[Lack, ...], "what it has no kernels for, by format, method and machine"] = ()
    encoder_decoders: Annotated[
        tuple[str, ...], "types of models with an encoder before the decoder it serves; `any` = all, empty = none"
    ] = ("any",)
    fp16_on: Annotated[tuple[str, ...], "families of machines where it runs models published in bf16 in fp16"] = ()
    activations: Annotated[
        Mapping[str, str], "by `family/format` of machine and weights, activations it quantises to by itself"
    ] = field(default_factory=dict)
    kv_formats: Annotated[tuple[str, ...], "formats of its cache below 16 bits; empty = any"] = ()
    own_files: Annotated[bool, "its weights are stored in a way no other engine reads"] = False
    own_formats: Annotated[tuple[str, ...], "formats of weights that no other engine reads"] = ()
    means: Annotated[
        Mapping[str, str], "the format of its own that one asked for by another engine's name is, by that name"
    ] = field(default_factory=dict)
    towers_inside: Annotated[bool, "encoders of images and sound are loaded with a GGUF file, asked or not"] = False
    image_s_per_megapixel: Annotated[
        float, Quantity("s", "of the host before an image reaches a tower: decoded, resized, copied; 0 = nothing", ge=0)
    ] = 0.0
    image_workers: Annotated[float, Quantity("1", "images that a replica's host works on at once", ge=1)] = 1.0
    fused_towers: Annotated[bool, "attention of its encoders of images and sound is one kernel"] = True
    usual_offload: Annotated[
        str, "what lies in host memory unless said otherwise, as `--offload` has it; of models with experts"
    ] = ""
    host_computes: Annotated[
        bool, "weights in host memory are computed with there; otherwise streamed to the device"
    ] = False
    stream_tokens: Annotated[
        float, Quantity("1", "steps of at least so many tokens stream them nevertheless; 0 = none", ge=0)
    ] = 0.0
    micro_batch_tokens: Annotated[
        float, Quantity("1", "tokens for which weights are streamed once; 0 = those of the step", ge=0)
    ] = 0.0
    checkpoint_tokens: Annotated[
        float, Quantity("1", "last tokens of a prompt computed apart, to come back to a state; 0 = none", ge=0)
    ] = 0.0
    repack_bytes_per_s: Annotated[
        float, Quantity("B/s", "rate at which the host lays streamed weights out anew before a copy; 0 = ready", ge=0)
    ] = 0.0
    host_time: float = 1.0
    """What its host's times were multiplied by, see :mod:`steelyard.deployment.engine_host`; of the catalogue's 1."""
    moved: Moved = UNMOVED
    """What an anchor says, see :mod:`steelyard.deployment.anchor`; of the catalogue's engines nothing."""
    aliases: tuple[str, ...] = ()
    guess: tuple[str, ...] = ()

    @property
    def dated(self) -> str:
        """The title with version and date, as far as known: ``vLLM v1 (0.24, 2026-07)``."""
        release = ", ".join(x for x in (self.version, self.released) if x)
        return f"{self.title} ({release})" if release else self.title

    def lanes(self, stages: int) -> int:
        """Steps in flight over so many pipeline stages: one in each; one in all where it waits for its tokens."""
        return 1 if self.splits_layers else stages

    def grouped(self, family: str, weights: str) -> str:
        """Its own grouped product of experts; empty: what was measured first."""
        return self.experts.get(f"{family}/{weights}") or self.experts.get(family, "")

    def speed(self, kind: str, family: str, weights: str) -> KernelSpeed | None:
        """The entry for a kernel, the one that names its format first; None: as benchmarked."""
        found = [k for k in self.kernels if k.kind == kind and k.family == family and k.format in ("", weights)]
        return max(found, key=lambda k: bool(k.format), default=None)

    def multiples(self, machine: Machine) -> tuple[int, int]:
        """What the hidden and the inner width of MXFP4 experts are padded to multiples of on a machine."""
        return self.expert_multiples.get(machine.family) or self.expert_multiples.get("", (1, 1))

    def peers_bytes(self, machine: Machine, shards: int) -> float:
        """Bytes of communication buffers where ``shards`` devices share every product."""
        direct = any(link.bandwidth_bytes_per_s > PCIE_BYTES_PER_S for link in machine.links("peer"))
        return self.peer_bytes + (shards - 2) * self.next_peer_bytes if shards > 1 and direct else 0.0

    def beside_bytes(self, machine: Machine, shards: int) -> float:
        """Bytes beside weights, cache and a step's tensors; ``shards`` devices share every product."""
        graphs = self.graph_bytes if self.graphs_in_share else 0.0
        return self.workspace_bytes + graphs + self.peers_bytes(machine, shards)

    def windows_keep(self, model_type: str) -> float:
        """Tokens that layers with a window keep per token of the others; 0: the window's."""
        return self.window_share if not self.window_share or model_type in self.window_types else 1.0

    def working_frac(self, share: float) -> float:
        """How much less the cache is when a step needs one byte more of working memory; ``share`` of memory is used."""
        return {"device": 1.0, "static": 0.0, "free": share}[self.memory_frac_of]

    def cache_bytes(self, machine: Machine, share: float, weights: float, work: float, shards: int = 1) -> float:
        """Bytes of a device left for the KV cache.

        Args:
            machine: the device.
            share: of its memory that is used.
            weights, work: bytes of weights and of working memory.
            shards: devices that share every product; their buffers are there before a static share is taken.
        """
        seen = machine.usable_bytes
        if self.memory_frac_of == "static":
            return (seen - self.peers_bytes(machine, shards)) * share - weights
        if self.memory_frac_of == "free":
            return (seen - weights - work) * share
        return seen * share - weights - work


@dataclass(frozen=True, slots=True)
class _EngineFile:
    __pydantic_config__ = {"extra": "forbid"}

    engine: tuple[Mapping[str, Any], ...] = ()
    generation: tuple[Mapping[str, Any], ...] = ()
    """Earlier generations: ``of``, ``version``, and the fields that differ from the engine's."""
    scheduler: tuple[Rules, ...] = ()


@cache
def _files() -> tuple[tuple[str, _EngineFile], ...]:
    return tuple((named(path), build_file(_EngineFile, path)) for path in catalogue_files("engines"))


@cache
def engines() -> Mapping[str, Engine]:
    """Every engine by name; of two of one name the one of the catalogue that is searched first.

    A generation ``of`` an engine is that engine with other figures, called ``vllm@0.6`` unless it names itself.

    Raises:
        UnknownName: an engine names a scheduler that is in no catalogue, a generation no engine.
        InputError: a field is missing, unknown or wrong.
    """
    raw: dict[str, Mapping[str, Any]] = {}
    found: dict[str, Engine] = {}
    for name, file in _files():
        for i, entry in enumerate(file.engine):
            engine = build(Engine, entry, f"{name}: engine[{i}]")
            raw.setdefault(engine.name, entry)
            found.setdefault(engine.name, engine)
    for name, file in _files():
        for entry in file.generation:
            of, version = str(entry.get("of")), str(entry.get("version", ""))
            if of not in raw:
                raise UnknownName("engine", of, raw).at(f"{name}: generation.of")
            named = {"name": f"{of}@{version}", "title": f"{raw[of].get('title')} {version}", "generation_of": of}
            past = {"compared": False, "commands": "", "aliases": [], "released": "", "usual": []}
            own = {**raw[of], **past, **named, **{k: v for k, v in entry.items() if k != "of"}}
            engine = build(Engine, own, f"{name}: generation {named['name']}")
            raw.setdefault(engine.name, own)
            found.setdefault(engine.name, engine)
    for engine in found.values():
        if engine.scheduler not in schedulers():
            raise UnknownName("scheduler", engine.scheduler, schedulers()).at(f"engine {engine.name}")
    return MappingProxyType(found)


@cache
def schedulers() -> Mapping[str, Rules]:
    """Every scheduler by name; of two of one name the one of the catalogue that is searched first."""
    found: dict[str, Rules] = {}
    for rules in (rules for _, file in _files() for rules in file.scheduler):
        found.setdefault(rules.name, rules)
    return MappingProxyType(found)


def reload_engines() -> None:
    """Read the engine files of the catalogues again at the next use."""
    for known in (_files, engines, schedulers):
        known.cache_clear()


def find_engine(name: str) -> Engine:
    """The engine called ``name``; ``NAME@VERSION`` is the generation that version belongs to.

    Raises:
        UnknownName: no engine is called so.
        InputError: a version before every generation known.
    """
    base, at, version = name.partition("@")
    known = engines()
    for engine in known.values():
        if normalise(base) in {normalise(x) for x in (engine.name, engine.title, *engine.aliases)}:
            return _generation(engine, version, name) if at else engine
    means = {n: e.name for e in known.values() if "@" not in e.name for n in (e.name, e.title, *e.aliases)}
    raise UnknownName("engine", name, means, hint="`steelyard ls engines` lists all", means=means)


def _generation(engine: Engine, version: str, asked: str) -> Engine:
    """The newest generation of an engine that is not newer than a version."""
    family = [e for e in engines().values() if engine.name in (e.name, e.generation_of) and e.version]
    family.sort(key=lambda e: _numbers(e.version))
    numbers = _numbers(version)
    if not numbers or not family:
        versions = ", ".join(e.version for e in family) or "none"
        message = f"expected a version after the @, got {show(version)}; known of {engine.title}: {versions}"
        raise InputError(message, field="engine")
    older = [e for e in family if _numbers(e.version)[: len(numbers)] <= numbers]
    if not older:
        first = family[0]
        raise InputError(f"nothing is known of {show(asked)}; the earliest is {first.version}", field="engine")
    return older[-1]


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, ``v0.6.3.post1`` as 0, 6, 3; of a build ``b4000`` 4000; empty: no version."""
    match = re.fullmatch(r"[vb]?(\d{1,9}(?:\.\d{1,9})*)(?:[.-]?(?:post|rc|a|b|dev)\d*)?", version.strip().lower())
    return tuple(int(x) for x in match[1].split(".")) if match else ()


def default_engine(machine: Machine) -> Engine:
    """What people usually run there, as its family, stack or kind say; vLLM where none does."""
    named = family_named(machine.family).engine or stack_named(machine.launch).engine or kinds()[machine.kind].engine
    engine = engines()[named or "vllm"]
    return engines()[engine.variants.get(machine.launch, engine.name)]
