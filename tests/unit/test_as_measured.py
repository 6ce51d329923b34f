"""What an engine, a family and a kind say of their own: all-reduce kernels, activations, energy of operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.energy import arithmetic_per_op_j, energy_per_op_j
from steelyard.cost.site import site_of
from steelyard.deployment.plan import Plan
from steelyard.machine.catalogue import find_machine
from steelyard.machine.classes import kinds
from steelyard.workload.catalogue import load_model


def all_reduce_s(machine: str, engine: str) -> float:
    """Time of a layer's all-reduces in a decode step of one token on eight devices, s."""
    step = sy.estimate("llama-3.1-70b", f"{machine}:8", tp=8, batch=1, isl=128, osl=2, engine=engine).decode
    return float(sum(np.sum(k.time_s) for k in step.cost if k.kernel.name.endswith("all_reduce")))


class TestAllReduce:
    def test_recent_vllm_reduces_with_its_own_kernel_on_mi300(self) -> None:
        """At 16 KiB RCCL walks a ring of 14 steps; peers read at once take less than half of that."""
        assert all_reduce_s("mi300x", "vllm") < 0.5 * all_reduce_s("mi300x", "vllm@0.6")

    def test_mi250_keeps_rccl(self) -> None:
        """Its family names no release with a kernel of its own."""
        assert all_reduce_s("mi250", "vllm") == pytest.approx(all_reduce_s("mi250", "vllm@0.6"))


class TestActivations:
    @pytest.mark.parametrize(
        ("machine", "engine", "named", "expected"),
        [
            ("b200_sxm", "trtllm", "", "mxfp8"),
            ("b200_sxm", "trtllm", "bf16", "bf16"),
            ("b200_sxm", "vllm", "", "bf16"),
            ("h200_sxm", "trtllm", "", "bf16"),
        ],
    )
    def test_mxfp4_experts_see_what_the_engine_quantises_to(
        self, machine: str, engine: str, named: str, expected: str
    ) -> None:
        """An engine's own format on a family, unless the plan names another."""
        model = load_model("gpt-oss-20b").transformer
        plan = Plan(activations=named, engine=engine).resolved(model, find_machine(machine))
        assert (plan.weights, plan.activations) == ("mxfp4", expected)


class TestEveryExpert:
    def experts_s(self, engine: str, batch: int) -> float:
        """Time of the routed experts of a decode step, s."""
        asked: dict[str, Any] = {"tp": 8, "ep": 8, "weights": "fp8_block", "isl": 128, "osl": 2}
        step = sy.estimate("qwen3-235b-a22b", "h100_sxm:8", batch=batch, engine=engine, **asked).decode
        return float(sum(np.sum(k.time_s) for k in step.cost if k.kernel.name.endswith("experts")))

    def test_padded_experts_take_as_long_for_few_rows_as_for_many(self) -> None:
        """vLLM 0.11 and 0.12 read and multiply every expert; later ones those that are met."""
        few, many = (self.experts_s("vllm@0.12", batch) for batch in (8, 32))
        assert few == pytest.approx(many, rel=0.05)
        assert few > 1.5 * self.experts_s("vllm", 8)
        assert self.experts_s("vllm", 32) > 1.3 * self.experts_s("vllm", 8)


class TestOperandEnergy:
    def test_operations_of_gpus_cost_more_than_their_file_says(self) -> None:
        """By the factor of the kind."""
        machine = find_machine("h100_sxm")
        site = site_of(machine, "tensor", "bf16")
        assert energy_per_op_j(site) == pytest.approx(kinds()["gpu"].operand_energy * arithmetic_per_op_j(site))

    def test_kinds_with_figures_of_their_own_keep_them(self) -> None:
        """Memories that compute and neural processors state what their actions take."""
        assert {kinds()[name].operand_energy for name in ("pim", "npu", "tpu", "cpu")} == {1.0}


class TestBeams:
    def test_beams_of_a_full_queue_find_their_prompt(self) -> None:
        """Each prompt is computed once, although others waited before its further answers came."""
        flags = {"num_gpu_blocks_override": 400, "max_num_seqs": 16}
        run = sy.simulate("llama-3.1-8b", "h100_sxm", rate="1000/s", requests=32, isl=512, osl=32, beam=4, flags=flags)
        assert run.totals["prefill_tokens"] < 1.2 * 32 * 512
