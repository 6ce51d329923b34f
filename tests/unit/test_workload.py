"""The workload protocol: anything that says what a step computes can be priced."""

from __future__ import annotations

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.step import Replica
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.errors import InputError
from steelyard.machine.cluster import parse_cluster
from steelyard.workload.catalogue import load_model
from steelyard.workload.fixed import FixedGraph
from steelyard.workload.model import Model
from steelyard.workload.op import Op
from steelyard.workload.protocol import Workload, restated
from steelyard.workload.step import Step
from steelyard.workload.transformer import transformer_of

ROLES = ("activation", "weight", "activation")


def stem(side: int = 56) -> FixedGraph:
    """Two layers of an image network: a convolution and a classifier."""
    conv = {"b": 1, "c": 64, "p": side, "q": side, "r": 3, "s": 3, "k": 64}
    return FixedGraph(
        "stem",
        (
            Op("conv", "b c p+r q+s, k c r s -> b k p q", conv, roles=ROLES, block="conv"),
            Op("relu", "b k p q -> b k p q", {k: conv[k] for k in "bkpq"}, map="relu", reduce="none", block="conv"),
            Op("fc", "b d, d o -> b o", {"b": 1, "d": 64 * side, "o": 1000}, roles=ROLES, block="head"),
        ),
        depth=2,
        hidden=64,
    )


def replica(workload: Workload, machine: str = "h100_sxm") -> Replica:
    return Replica(workload, Plan().resolved("bf16"), parse_cluster(machine), find_engine("torch"))


@pytest.mark.parametrize("machine", ["h100_sxm", "xeon_8480", "tpu_v5e"])
def test_a_network_that_is_no_language_model_is_priced(machine: str) -> None:
    batch = np.array([1.0, 8.0, 64.0])
    priced = replica(stem(), machine).price(Step(batch, 1, 1))
    assert [k.model for k in priced.cost.kernels] == ["gemm", "vector", "gemm"]
    assert np.all(np.diff(priced.time_s) > 0)
    assert np.all(priced.time_s >= priced.limit_s)
    macs = 64 * 64 * 9 * 56 * 56 + 64 * 56 * 1000
    assert np.allclose(sum(k.kernel.flops for k in priced.cost.kernels), batch * (2 * macs + 64 * 56 * 56))


def test_estimate_answers_for_it() -> None:
    found = [sy.estimate(Model("stem", stem(), "a test"), "h100_sxm", batch=batch, isl=1, osl=1) for batch in (1, 64)]
    assert found[0].fits
    assert found[0].to_dict()["memory_bytes"]["kv_cache"] == 0.0
    assert found[0].to_dict()["ttft_s"] < found[1].to_dict()["ttft_s"]


def test_its_parameters_are_the_elements_of_its_weights() -> None:
    assert stem().parameters() == 64 * 64 * 9 + 64 * 56 * 1000
    assert stem(28).parameters() < stem().parameters()


def test_facts_can_be_restated() -> None:
    first = stem()
    again = restated(first, name="stem8", native_weights="int8")
    assert (again.name, again.native_weights) == ("stem8", "int8")
    assert again.ops is first.ops


def test_what_needs_a_transformer_says_so() -> None:
    with pytest.raises(InputError, match=r"speculation needs a transformer; this is a FixedGraph"):
        transformer_of(stem(), "speculation")


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gemma-3-27b", "qwen3-30b-a3b", "bert-base-uncased"])
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_sharing_a_cache_never_enlarges_it_and_keeps_the_whole(name: str, tp: int) -> None:
    model = load_model(name).transformer
    context = np.array([1.0, 1000.0, 100_000.0])
    mine, all_ = model.kv_elements(context, tp), model.kv_elements(context)
    assert np.all(mine <= all_)
    assert np.all(mine * tp >= all_)
    assert model.widest_elements(tp) <= model.widest_elements()
    assert model.latent == any(keys == 0 for _, keys in model.head_groups)
