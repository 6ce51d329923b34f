"""The contract of a cost model, as tests its author runs.

Subclass :class:`CostModelContract` in a test module, give it the model, a machine it applies to, and a graph with ops
of its kind::

    class TestMyModel(CostModelContract):
        @pytest.fixture
        def model(self):
            return my_package.my_gemm

        @pytest.fixture
        def machine(self):
            return find_machine("my_chip")

        @pytest.fixture
        def graph(self):      # sizes(n): larger with n, an int or an array over scenarios
            return lambda n: Graph("probe", (Op("up", "t d, d f -> t f", {"t": n, "d": 512, "f": 512}),))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from steelyard.cost.kernel import Kernel
from steelyard.cost.models import COST_MODELS, CostModel, KernelTime, PricingContext, model_for
from steelyard.cost.place import roofline
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.cost.site import site_of
from steelyard.deployment import Plan
from steelyard.deployment.engine import default_engine
from steelyard.machine import Machine
from steelyard.machine.cluster import cluster_of
from steelyard.workload.graph import Graph
from steelyard.workload.op import Size

__all__ = ["CostModelContract"]

#: Sizes priced: small, odd and large.
SIZES = np.array([1.0, 2.0, 3.0, 7.0, 16.0, 100.0, 333.0, 1024.0, 4096.0])


class CostModelContract:
    """What must hold for every cost model of a kernel that computes."""

    @pytest.fixture
    def model(self) -> CostModel:
        """The cost model under test; override this."""
        raise NotImplementedError("override the model fixture")

    @pytest.fixture
    def machine(self) -> Machine:
        """A machine it applies to; override this."""
        raise NotImplementedError("override the machine fixture")

    @pytest.fixture
    def graph(self) -> Callable[[Size], Graph]:
        """Ops of its kind, growing with a size; override this."""
        raise NotImplementedError("override the graph fixture")

    @pytest.fixture
    def registered(self, model: CostModel) -> Any:
        """The model among the others, as an installed package would have it."""
        if any(COST_MODELS.get(name) is model for name in COST_MODELS):
            yield
            return
        with COST_MODELS.during("under_test", model):
            yield

    def kernels(
        self, model: CostModel, machine: Machine, graph: Callable[[Size], Graph], size: Size
    ) -> list[tuple[Kernel, PricingContext]]:
        """The kernels of the model's kind, and where they run."""
        program = lower(graph(size), Plan().resolved("bf16"), machine)
        cluster, engine = cluster_of(machine), default_engine(machine)
        return [
            (k, PricingContext(cluster, engine, site_of(machine, k.engine, k.compute)))
            for k in program.kernels
            if k.kind == model.kind.name
        ]

    @pytest.mark.usefixtures("registered")
    def test_its_ops_are_of_its_kind_and_it_is_chosen(
        self, model: CostModel, machine: Machine, graph: Callable[[Size], Graph]
    ) -> None:
        assert self.kernels(model, machine, graph, 16), f"no kernel of the graph is of the kind {model.kind.name!r}"
        assert model_for(model.kind.name, machine) is model

    @pytest.mark.usefixtures("registered")
    def test_times_are_positive_and_not_below_the_limit(
        self, model: CostModel, machine: Machine, graph: Callable[[Size], Graph]
    ) -> None:
        for kernel, context in self.kernels(model, machine, graph, SIZES):
            priced = model(kernel, context)
            assert isinstance(priced, KernelTime)
            assert priced.source.strip()
            assert np.isfinite(priced.spread) and priced.spread >= 0
            time = np.broadcast_to(np.asarray(priced.time_s, dtype=np.float64), SIZES.shape)
            assert np.all(np.isfinite(time)) and np.all(time > 0)
            assert np.all(time >= np.maximum(*roofline(kernel, context.site)) * (1 - 1e-9))

    @pytest.mark.usefixtures("registered")
    def test_an_array_is_priced_as_its_elements(
        self, model: CostModel, machine: Machine, graph: Callable[[Size], Graph]
    ) -> None:
        together = [model(*k).time_s for k in self.kernels(model, machine, graph, SIZES)]
        for i, size in enumerate(SIZES):
            alone = [model(*k).time_s for k in self.kernels(model, machine, graph, size)]
            for one, all_ in zip(alone, together, strict=True):
                assert np.isclose(float(np.asarray(one)), np.broadcast_to(all_, SIZES.shape)[i], rtol=1e-9)

    @pytest.mark.usefixtures("registered")
    def test_a_larger_size_is_not_faster(
        self, model: CostModel, machine: Machine, graph: Callable[[Size], Graph]
    ) -> None:
        """Over a factor of sixteen; tiles and waves may make a slightly larger kernel a little faster."""
        far = np.array([1.0, 16.0, 256.0, 4096.0])
        for kernel, context in self.kernels(model, machine, graph, far):
            time = np.broadcast_to(np.asarray(model(kernel, context).time_s), far.shape)
            assert np.all(time[1:] >= time[:-1] * 0.98)

    @pytest.mark.usefixtures("registered")
    def test_a_step_is_priced_with_it(self, model: CostModel, machine: Machine, graph: Callable[[Size], Graph]) -> None:
        cost = price(lower(graph(SIZES), Plan().resolved("bf16"), machine), cluster_of(machine))
        assert any(k.model == model.kind.name for k in cost.kernels)
        assert np.all(np.asarray(cost.time_s) >= np.asarray(cost.limit_s))
