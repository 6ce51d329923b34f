"""The contract of a machine description, as tests a catalogue author runs.

Subclass :class:`MachineContract` in a test module and give it a machine::

    class TestMyChip(MachineContract):
        @pytest.fixture
        def machine(self):
            return load_machine("my_chip.toml")
"""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.deployment import Plan
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError
from steelyard.machine import Machine
from steelyard.machine.cluster import cluster_of
from steelyard.workload import Attention, FeedForward, Layer, Step, Transformer

__all__ = ["MachineContract"]

#: A small decoder every machine must be able to price.
PROBE = Transformer(
    "probe", "llama", 1024, 32000, (Layer(4, Attention(16, 4, 64, rotary_dim=64), FeedForward(2816)),), tied=True
)


class MachineContract:
    """What must hold for every machine."""

    @pytest.fixture
    def machine(self) -> Machine:
        """The machine under test; override this."""
        raise NotImplementedError("override the machine fixture")

    def test_every_action_has_a_positive_rate(self, machine: Machine) -> None:
        actions = dict(machine.actions())
        assert actions
        for name, action in actions.items():
            assert np.isfinite(action.throughput_per_s), name
            assert action.throughput_per_s > 0, name
            assert action.latency_s >= 0, name
            assert action.energy_j >= 0, name

    def test_every_figure_has_a_source_or_is_called_a_guess(self, machine: Machine) -> None:
        assert machine.sources, "name at least one source"
        assert all(text.strip() for text in machine.sources.values())
        assert all(reason.strip() for reason in machine.guess.values()), "say why each guess was made"

    def test_narrower_formats_are_not_slower_than_wider_ones(self, machine: Machine) -> None:
        for engine in machine.engines("matrix"):
            for narrow, wide in (("fp8", "bf16"), ("fp8", "fp16"), ("fp4", "fp8")):
                if narrow in engine.peak and wide in engine.peak:
                    assert engine.peak[narrow] >= engine.peak[wide], f"{engine.name}: {narrow} slower than {wide}"

    def test_inner_memory_is_smaller_and_not_slower(self, machine: Machine) -> None:
        for level in machine.memory:
            if level.inside:
                outer = machine.level(level.inside)
                assert level.capacity_bytes <= machine.root.capacity_bytes, level.name
                if machine.kind == "pim" and outer is machine.root:
                    continue  # the bus is slower than the banks behind it: that is what units in them are for
                assert level.bandwidth_bytes_per_s >= outer.bandwidth_bytes_per_s * 0.5, level.name

    def test_power_is_ordered(self, machine: Machine) -> None:
        if machine.tdp_w:
            assert 0 <= machine.idle_w <= machine.tdp_w

    @pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
    def test_a_small_decoder_can_be_priced(self, machine: Machine, weights: str) -> None:
        plan = Plan(weights).resolved("bf16")
        if not any(find_format(f).bits >= 16 and not f.startswith("int") for c in machine.compute for f in c.peak):
            with pytest.raises(InputError, match="cannot compute in"):
                lower(PROBE.graph(Step.decode(1, 10)), plan, machine)
            return
        for step in (Step.prefill(1, 128), Step.decode(4, 500)):
            cost = price(lower(PROBE.graph(step), plan, machine), cluster_of(machine))
            assert np.isfinite(cost.time_s)
            assert cost.time_s >= cost.limit_s > 0
            assert np.isfinite(cost.energy_j)
            assert cost.energy_j >= 0
