"""The einsum op: what is derived from an expression and sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import InputError
from steelyard.workload import Op

BITS = {"activation": 16, "weight": 16, "kv": 16, "state": 16, "table": 16}
SIZE = st.integers(1, 64)


def linear(t: int, d: int, f: int) -> Op:
    return Op("linear", "t d, d f -> t f", {"t": t, "d": d, "f": f}, roles=("activation", "weight", "activation"))


def test_linear_macs_bytes_and_intensity() -> None:
    op = linear(32, 4096, 1024)
    assert op.macs() == 32 * 4096 * 1024
    assert op.flops() == 2 * op.macs()
    assert op.bytes(BITS) == 2 * (32 * 4096 + 4096 * 1024 + 32 * 1024)
    assert op.bytes({**BITS, "weight": 4.15625}, roles=("weight",)) == 4096 * 1024 * 4.15625 / 8
    assert op.intensity(BITS) == op.flops() / op.bytes(BITS)


def test_strided_convolution_extents() -> None:
    sizes = {"n": 2, "c": 3, "k": 64, "p": 112, "q": 112, "r": 7, "s": 7}
    op = Op("conv", "n c 2*p+r 2*q+s, k c r s -> n k p q", sizes)
    assert op.macs() == 2 * 64 * 112 * 112 * 3 * 49
    assert op.elements(op.inputs[0]) == 2 * 3 * (2 * 111 + 7) ** 2
    m, n, k, groups = op.gemm_shape()
    assert (m, n, k, groups) == (2 * 112 * 112, 64, 3 * 49, 1)


def test_sizes_may_be_arrays() -> None:
    batch = np.array([1, 2, 4])
    op = Op("linear", "t d, d f -> t f", {"t": batch, "d": 8, "f": 16})
    assert np.array_equal(op.macs(), batch * 128.0)


@given(t=SIZE, d=SIZE, f=SIZE)
def test_scalar_and_array_sizes_agree(t: int, d: int, f: int) -> None:
    one, many = (
        linear(t, d, f),
        Op("linear", "t d, d f -> t f", {"t": np.array([t, t]), "d": d, "f": f}, roles=linear(1, 1, 1).roles),
    )
    assert float(one.flops()) == many.flops()[1]
    assert float(one.bytes(BITS)) == many.bytes(BITS)[0]


@given(t=SIZE, d=SIZE, f=SIZE, more=SIZE)
def test_work_grows_with_every_rank(t: int, d: int, f: int, more: int) -> None:
    assert linear(t + more, d, f).flops() > linear(t, d, f).flops()
    assert linear(t, d + more, f).bytes(BITS) > linear(t, d, f).bytes(BITS)


def test_domain_replaces_a_product_of_ranks() -> None:
    sizes = {"s": 4, "l": 4, "c": 8}
    op = Op("scores", "s c, l c -> s l", sizes, domain={("s", "l"): 10})
    assert op.macs() == 10 * 8
    assert op.macs(dense=True) == 16 * 8
    assert op.elements(op.output) == 10
    assert op.elements(op.inputs[1]) == 4 * 8


def test_visited_limits_traffic_but_not_storage() -> None:
    op = Op(
        "experts", "t d, e d f -> t e f", {"t": 2, "d": 4, "e": 8, "f": 16}, domain={("t", "e"): 4}, visited={"e": 3}
    )
    weights = op.inputs[1]
    assert op.elements(weights) == 3 * 4 * 16
    assert op.elements(weights, visited=False) == 8 * 4 * 16


def test_iterative_rank_gives_the_serial_chain() -> None:
    op = Op("recurrence", "t h, h g -> t g", {"t": 100, "h": 8, "g": 8}, iterative=("t",))
    assert op.steps() == 100


def test_derived_ranks_follow_their_parts() -> None:
    op = Op("qkv", "t d, d p c -> t p c", {"t": 1, "d": 2, "c": 4, "h": 8, "g": 2}, derived={"p": (("h", 1), ("g", 2))})
    assert op.size("p") == 12
    assert op.resized({"h": 4}).size("p") == 8


@pytest.mark.parametrize(
    ("einsum", "sizes", "message"),
    [
        ("t d, d f", {"t": 1}, "inputs -> output"),
        ("t d-1, d f -> t f", {"t": 1, "d": 1, "f": 1}, "sum of"),
        ("t d, d f -> t f", {"t": 1, "d": 1}, "no size for rank 'f'"),
    ],
)
def test_bad_expressions_name_the_problem(einsum: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Op("bad", einsum, sizes)


def test_unknown_operator_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="softmax"):
        Op("bad", "t -> t", {"t": 1}, map="sofmax")
