"""Serving engines as data: what they reserve, how they batch, what a step costs beside the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated

from steelyard.documents import build, read_document
from steelyard.errors import UnknownName, normalise
from steelyard.folders import catalogue_folders
from steelyard.machine.component import Machine
from steelyard.units import Quantity

__all__ = ["Engine", "KernelSpeed", "default_engine", "engines", "find_engine"]


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
class Engine:
    """One serving engine with its own defaults."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    memory_frac: Annotated[float, Quantity("1", "share of device memory the engine may use", gt=0, le=1)]
    block_tokens: Annotated[float, Quantity("1", "tokens of one KV-cache block", ge=1)]
    max_batched_tokens: Annotated[float, Quantity("1", "tokens of one step at most", ge=1)]
    max_sequences: Annotated[float, Quantity("1", "sequences of one step at most", ge=1)]
    workspace_bytes: Annotated[float, Quantity("B", "graphs, communication buffers, workspaces", ge=0)]
    step_s: Annotated[float, Quantity("s", "host time per step that the device waits for", ge=0)]
    step_s_per_sequence: Annotated[float, Quantity("s", "further host time per sequence of the step", ge=0)]
    layer_s: Annotated[float, Quantity("s", "device time per layer beside the priced kernels", ge=0)]
    request_s: Annotated[float, Quantity("s", "tokenise, HTTP, first detokenise, once per request", ge=0)]
    launch_s: Annotated[
        float, Quantity("s", "host time per kernel of a step that is no captured graph; 0 = the machine's usual", ge=0)
    ] = 0.0
    kernels: tuple[KernelSpeed, ...] = ()
    """Its kernels where they differ from the benchmarked ones."""
    graph_tokens: Annotated[
        float, Quantity("1", "steps with prompts of up to so many tokens are captured graphs too", ge=0)
    ] = 0.0
    graph: Annotated[bool, "decode steps are captured graphs; otherwise every kernel is launched from the host"] = True
    fused_quantisation: Annotated[bool, "activations are quantised inside the kernel before a product"] = False
    experts_hopper: Annotated[str, "its grouped product of 8-bit experts on Hopper; empty = what was measured"] = ""
    attention: Annotated[str, "its own attention kernel on NVIDIA parts; empty = what the machine's family runs"] = ""
    all_reduce: Annotated[str, "the library whose all-reduce it uses"] = "nccl"
    aliases: tuple[str, ...] = ()
    guess: tuple[str, ...] = ()

    def speed(self, kind: str, family: str, weights: str) -> KernelSpeed | None:
        """The entry for a kernel, the one that names its format first; None: as benchmarked."""
        found = [k for k in self.kernels if k.kind == kind and k.family == family and k.format in ("", weights)]
        return max(found, key=lambda k: bool(k.format), default=None)


@dataclass(frozen=True, slots=True)
class _EngineFile:
    __pydantic_config__ = {"extra": "forbid"}

    engine: tuple[Engine, ...] = field(default=())


@cache
def engines() -> Mapping[str, Engine]:
    """Every engine by name; of two of one name the one of the catalogue that is searched first."""
    found: dict[str, Engine] = {}
    for folder in catalogue_folders():
        for path in sorted((folder / "engines").glob("*.toml")):
            for engine in build(_EngineFile, read_document(path), path.name).engine:
                found.setdefault(engine.name, engine)
    return found


def find_engine(name: str) -> Engine:
    """The engine called ``name``. Raises :class:`UnknownName`."""
    for engine in engines().values():
        if normalise(name) in (
            normalise(engine.name),
            normalise(engine.title),
            *(normalise(a) for a in engine.aliases),
        ):
            return engine
    raise UnknownName("engine", name, engines())


def default_engine(machine: Machine) -> Engine:
    """What people usually run there: vLLM on data-centre accelerators, llama.cpp elsewhere."""
    small = machine.kind in ("cpu", "soc", "npu", "mcu") or machine.launch in ("metal", "cpu", "npu")
    return engines()["llamacpp" if small else "vllm"]
