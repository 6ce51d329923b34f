"""The cost models the library ships keep the contract plug-ins are given; the choice between several of one kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from steelyard.cost import attention_models, op_models
from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import GEMM, VECTOR, Kind, Structure
from steelyard.cost.models import COST_MODELS, CostModel, KernelTime, PricingContext, cost_model, kinds, model_for
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.deployment import Plan
from steelyard.errors import InputError, SteelyardError
from steelyard.machine import Machine
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.testing.cost_models import CostModelContract
from steelyard.workload.catalogue import load_model
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op, Size
from steelyard.workload.transformer import Step

MODELS: Mapping[str, CostModel] = {
    "attention": attention_models.attention,
    "gather": op_models.gather,
    "gemm": op_models.gemm,
    "moe": op_models.moe,
    "vector": op_models.vector,
}


@pytest.mark.parametrize("name", sorted(MODELS))
class TestBuiltIns(CostModelContract):
    """Every built-in that computes, on a whole mixture of experts."""

    @pytest.fixture
    def model(self, name: str) -> CostModel:
        return MODELS[name]

    @pytest.fixture(params=["h100_sxm", "mi300x"])
    def machine(self, request: pytest.FixtureRequest) -> Machine:
        return find_machine(request.param)

    @pytest.fixture
    def graph(self) -> Callable[[Size], Graph]:
        mixtral = load_model("mixtral-8x7b").transformer
        return lambda n: mixtral.graph(Step.decode(n, 500))


def _fixed(seconds: float) -> Callable[[Kernel, PricingContext], KernelTime]:
    return lambda kernel, context: KernelTime(np.full(np.shape(kernel.flops), seconds), 0.1, "a test")


def _chosen(machine: str) -> CostModel:
    return model_for("gemm", find_machine(machine))


def test_a_machine_wins_over_its_family_and_that_over_everywhere() -> None:
    everywhere = cost_model(GEMM)(_fixed(1.0))
    family = cost_model(GEMM, families=("hopper",))(_fixed(2.0))
    machine = cost_model(GEMM, machines=("h200_sxm",))(_fixed(3.0))
    with (
        COST_MODELS.during("every", everywhere),
        COST_MODELS.during("family", family),
        COST_MODELS.during("machine", machine),
    ):
        assert _chosen("h200_sxm") is machine
        assert _chosen("h100_sxm") is family
        assert _chosen("a100_sxm") is everywhere
    assert _chosen("h200_sxm") is op_models.gemm


def test_two_that_are_as_specific_are_an_error_naming_both() -> None:
    one, other = (cost_model(GEMM, families=("hopper",))(_fixed(t)) for t in (1.0, 2.0))
    with COST_MODELS.during("one_gemm", one), COST_MODELS.during("other_gemm", other):
        with pytest.raises(SteelyardError, match=r"'one_gemm'.*'other_gemm'"):
            _chosen("h100_sxm")
        assert _chosen("a100_sxm") is op_models.gemm


def test_a_price_below_the_limit_is_not_accepted() -> None:
    machine = find_machine("h100_sxm")
    graph = Graph("probe", (Op("up", "t d, d f -> t f", {"t": 4096, "d": 8192, "f": 8192}, roles=_WEIGHT),))
    with COST_MODELS.during("too_fast", cost_model(GEMM, machines=("h100_sxm",))(_fixed(1e-12))):
        (kernel,) = price(lower(graph, Plan().resolved("bf16"), machine), cluster_of(machine)).kernels
        assert kernel.time_s == kernel.limit_s > 1e-6
        assert kernel.source == "a test"


_WEIGHT = ("activation", "weight", "activation")
_SCAN = Op("scan.step", "n b h, g h -> n b g", {"n": 64, "b": 4, "h": 256, "g": 256}, iterative=("n",))
_CONV = Op(
    "conv",
    "n c p+r q+s, k c r s -> n k p q",
    {"n": 8, "c": 64, "p": 56, "q": 56, "r": 3, "s": 3, "k": 64},
    roles=_WEIGHT,
)


def _nothing(structure: Structure, plan: Plan) -> Mapping[str, object]:
    return {"steps": structure.ops[0].steps()}


def test_a_new_kind_is_recognised_by_structure_and_refines_a_built_in() -> None:
    scan = Kind(
        "my_scan", lambda s: bool(s.iterative) and len(s.contractions) == 1, _nothing, refines=("gemm", "state_scan")
    )
    conv = Kind("conv", lambda s: bool(s.windows), _nothing, refines=("gemm",))
    assert [kinds().of(Structure.of([op])).name for op in (_SCAN, _CONV)] == ["state_scan", "gemm"]
    with (
        COST_MODELS.during("my_scan", cost_model(scan)(_fixed(1.0))),
        COST_MODELS.during("my_conv", cost_model(conv)(_fixed(2.0))),
    ):
        machine = find_machine("a100_sxm")
        cost = price(lower(Graph("net", (_SCAN, _CONV)), Plan().resolved("bf16"), machine), cluster_of(machine))
        assert [(k.model, float(k.time_s)) for k in cost.kernels] == [("my_scan", 1.0), ("conv", 2.0)]
        assert cost.kernels[0].kernel.features["steps"] == 64


def test_kinds_of_which_none_refines_the_other_are_an_error_naming_both() -> None:
    kinds_ = [Kind(name, lambda s: bool(s.windows), _nothing, refines=("gemm",)) for name in ("left", "right")]
    with (
        COST_MODELS.during("a", cost_model(kinds_[0])(_fixed(1.0))),
        COST_MODELS.during("b", cost_model(kinds_[1])(_fixed(1.0))),
        pytest.raises(SteelyardError, match="'left' and 'right'"),
    ):
        kinds().of(Structure.of([_CONV]))


def test_a_kind_that_refines_nothing_known_is_an_error() -> None:
    odd = Kind("odd", lambda s: True, _nothing, refines=("gemn",))
    with COST_MODELS.during("odd", cost_model(odd)(_fixed(1.0))), pytest.raises(InputError, match="gemm"):
        kinds()


def test_what_is_no_cost_model_is_refused_by_name() -> None:
    with (
        COST_MODELS.during("bare", _fixed(1.0)),  # type: ignore[arg-type]
        pytest.raises(SteelyardError, match=r"'bare'.*@cost_model"),
    ):
        kinds()


def test_elementwise_ops_are_the_kind_of_what_nothing_else_matches() -> None:
    assert kinds().of(Structure.of([Op("add", "t d -> t d", {"t": 4, "d": 8}, map="relu", reduce="none")])) is VECTOR


def test_an_operator_is_added_by_name() -> None:
    from steelyard.workload.op import OPERATORS

    sizes: dict[str, Size] = {"n": 1024.0}
    with pytest.raises(InputError, match="sort"):
        Op("sort", "n -> n", sizes, map="sort", reduce="none")
    with OPERATORS.during("sort", 10.0):
        assert Op("sort", "n -> n", sizes, map="sort", reduce="none").flops() == 10240.0
