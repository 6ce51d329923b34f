"""How a workload runs: formats per tensor role, parallel degrees, engine, fusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from steelyard.deployment.engine import Engine, default_engine, engines
from steelyard.deployment.formats import Format, computes, find_format, widened, widening
from steelyard.errors import InputError
from steelyard.machine.component import Machine
from steelyard.units import Quantity
from steelyard.workload.protocol import Workload

__all__ = ["DEGREES", "Plan"]

#: The degrees of parallelism of a plan, in the order they are written.
DEGREES = ("tp", "pp", "dp", "ep", "cp")
#: Rows and columns that share a scale in 8-bit weights as DeepSeek publishes them; smaller groups are cut anywhere.
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """Choices that are neither the model nor the machine. Empty formats mean "as published" or "follows"."""

    weights: Annotated[str, "number format of the weights; empty = the model's own"] = ""
    activations: Annotated[str, "number format of activations; empty = what the weights' format implies"] = ""
    kv: Annotated[str, "number format of the KV cache; empty = as published, else 16 bit"] = ""
    communication: Annotated[str, "number format of collectives; empty = 16 bit"] = ""
    tp: Annotated[int, Quantity("1", "tensor-parallel degree", ge=1)] = 1
    pp: Annotated[int, Quantity("1", "pipeline-parallel degree", ge=1)] = 1
    dp: Annotated[
        int, Quantity("1", "data-parallel degree (replicas; attention-parallel when experts are shared)", ge=1)
    ] = 1
    ep: Annotated[int, Quantity("1", "expert-parallel degree", ge=1)] = 1
    cp: Annotated[int, Quantity("1", "context-parallel degree", ge=1)] = 1
    engine: Annotated[str, "serving engine; empty = the usual one of the machine"] = ""
    offload: Annotated[str, "weights in host memory, such as experts:36, layers:20 or cpu:8GB; empty = none"] = ""
    fused: Annotated[bool, "fuse attention and elementwise chains; off = every op is a kernel of its own"] = True

    @property
    def devices(self) -> int:
        """Devices used: ``tp * pp * dp * cp`` (expert parallelism reuses the tp and dp ranks)."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def degrees(self) -> dict[str, int]:
        """Every degree of parallelism by its name."""
        return {name: getattr(self, name) for name in DEGREES}

    @property
    def shape(self) -> str:
        """The degrees above one, ``tp 4, dp 2``; empty for one device."""
        return ", ".join(f"{name} {size}" for name, size in self.degrees.items() if size > 1)

    @property
    def replica_devices(self) -> int:
        """Devices of one replica."""
        return self.tp * self.pp * self.cp

    @property
    def shares_experts(self) -> bool:
        """Whether data-parallel ranks share one set of experts (attention data parallelism)."""
        return self.dp > 1 and self.ep > self.tp

    def over(self, devices: int, experts: int = 1) -> Plan:
        """The same formats and engine, tensors cut over all devices, experts over so many, nothing else split."""
        return replace(self, tp=devices, pp=1, dp=1, ep=experts, cp=1)

    def resolved(self, published: Workload | str, machine: Machine | None = None) -> Plan:
        """The plan with every format named: published weights, implied activations, 16-bit cache and collectives.

        Weights asked for in the kind of format that was published mean the published ones: ``fp8`` is ``fp8_block`` of
        a model that is published so. Of published weights the cache is in the format that was published with them.
        Where a machine has no bf16 and the engine runs such models in fp16 there, fp16 is what every bf16 becomes.

        Args:
            published: the model, or the format of its weights.
            machine: where it runs; activations whose format it cannot multiply are kept in 16 bits.

        Raises:
            InputError: an unknown format, or activations narrower than the weights they multiply, or than the machine
                computes in.
        """
        native = find_format(published if isinstance(published, str) else published.native_weights)
        weights = find_format(self.weights) if self.weights else native
        if native.base.startswith(weights.name) and native.activations == weights.activations:
            weights = native
        kept = "" if isinstance(published, str) or weights != native else published.native_kv
        implied = weights.activations or ("fp16" if weights.gguf else weights.name.partition("@")[0])
        if machine is not None:
            implied = self._runs(machine).activations.get(f"{machine.family}/{weights.name}", implied)
        activations = find_format(self.activations or implied)
        if machine is not None and not computes(machine, activations):
            wide = widened(machine, activations)
            if self.activations and wide is not activations:
                message = f"{machine.name} multiplies no {activations.name}; the nearest it does is {wide.name}"
                raise InputError(message, field="activations")
            activations = wide
        if activations.bits < weights.bits:
            message = f"{activations.name} is narrower than the {weights.name} weights it multiplies"
            raise InputError(message, field="activations")
        wide = activations if activations.bits >= 16 else find_format("bf16")
        kv = find_format(self.kv or kept) if self.kv or kept else wide
        communication = find_format(self.communication) if self.communication else wide
        half = machine is not None and machine.family in self._runs(machine).fp16_on

        def named(fmt: Format) -> str:
            return "fp16" if half and fmt.name == "bf16" else fmt.name

        return replace(
            self,
            weights=named(weights),
            activations=named(activations),
            kv=named(kv),
            communication=named(communication),
        )

    def stores(self, native: str) -> bool:
        """Whether a resolved plan stores weights as published in a format; bf16 and fp16 take the same bytes."""
        published = find_format(native).name
        return self.weights == published or {self.weights, published} == {"bf16", "fp16"}

    def remarks(self, published: Workload, machine: Machine) -> tuple[str, ...]:
        """What to say of the formats of a resolved plan: those that are not what was published or is multiplied."""
        found = widening(machine, self.format("weight"), self.format("activation"))
        engine, native = self._runs(machine), find_format(published.native_weights)
        if machine.family in engine.fp16_on and "bf16" in (native.name, native.activations):
            found += (f"{machine.name} multiplies no bf16: {engine.title} runs the model in fp16 there",)
        return found + self._cut_blocks(published)

    def _cut_blocks(self, published: Workload) -> tuple[str, ...]:
        """Experts whose part on a device ends inside a block of scales, which serving engines refuse to load."""
        side = math.isqrt(int(self.format("weight").group))
        degree = max(1, self.tp * (self.dp if self.shares_experts else 1) // self.ep)
        if side < BLOCK or degree == 1:
            return ()
        parts = (layer.feed_forward for layer in getattr(published, "layers", ()))
        widths = {int(f.intermediate) for f in parts if f is not None and f.is_moe}
        cut = sorted(w for w in widths if w // degree % side)
        return tuple(
            f"experts of {w:,} columns over {degree} devices end inside blocks of {side}, which engines refuse to "
            f"load: --ep {degree} keeps them whole"
            for w in cut
        )

    def _runs(self, machine: Machine) -> Engine:
        """The engine on a machine, the usual one where none is named."""
        return engines().get(self.engine) or default_engine(machine)

    def format(self, role: str) -> Format:
        """The format of a tensor role in a resolved plan: ``weight``, ``activation``, ``kv``, ``communication``."""
        names = {
            "weight": self.weights,
            "activation": self.activations,
            "kv": self.kv,
            "communication": self.communication,
        }
        return find_format(names[role])
