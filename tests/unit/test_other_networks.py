"""The frame is not a language-model calculator: other networks as graphs, with counts from their papers or by hand."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.workload import Graph, Op


def conv(name: str, c: int, k: int, size: int, kernel: int, stride: int = 1, count: int = 1) -> Op:
    index = f"{stride}*p+r {stride}*q+s"
    sizes = {"n": 1, "c": c, "k": k, "p": size, "q": size, "r": kernel, "s": kernel}
    return Op(
        name,
        f"n c {index}, k c r s -> n k p q",
        sizes,
        operands=("x", f"{name}_w", "y"),
        roles=("activation", "weight", "activation"),
        count=count,
    )


def resnet50() -> Graph:
    ops = [conv("conv1", 3, 64, 112, 7, 2)]
    inputs = 64
    for stage, (width, size, blocks) in enumerate([(64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)]):
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            before = size * stride
            name = f"s{stage}b{block}"
            # stride on the 3x3 convolution, as torchvision builds it
            ops += [
                conv(f"{name}_a", inputs, width, before, 1),
                conv(f"{name}_b", width, width, size, 3, stride),
                conv(f"{name}_c", width, 4 * width, size, 1),
            ]
            if block == 0:
                ops.append(conv(f"{name}_down", inputs, 4 * width, size, 1, stride))
            inputs = 4 * width
    ops.append(
        Op("fc", "n c, c k -> n k", {"n": 1, "c": 2048, "k": 1000}, roles=("activation", "weight", "activation"))
    )
    return Graph("resnet50", tuple(ops))


def test_resnet50_macs_match_the_published_count() -> None:
    """4.09 GMACs and 25.5 M convolution and classifier weights: torchvision's ResNet-50 (V1.5) model card."""
    graph = resnet50()
    assert float(graph.macs()) == pytest.approx(4.09e9, rel=0.01)
    biases_and_norms = 1000 + 2 * 26560
    assert float(graph.weight_elements()) + biases_and_norms == pytest.approx(25_557_032, rel=1e-6)


def test_mamba2_block_by_hand() -> None:
    """Mamba-2 (arXiv:2405.21060) mixer: d 1024, expand 2, head 64, state 128, conv 4, chunk 64, 512 tokens."""
    t, d, inner, state, heads, width, chunk = 512, 1024, 2048, 128, 32, 64, 64
    chunks = t // chunk
    graph = Graph(
        "mamba2",
        (
            Op("in", "t d, d o -> t o", {"t": t, "d": d, "o": 2 * inner + 2 * state + heads}),
            Op("conv", "t+w o, w o -> t o", {"t": t, "w": 4, "o": inner + 2 * state}),
            Op("scores", "z s n, z l n -> z s l", {"z": chunks, "s": chunk, "l": chunk, "n": state}),
            Op("inside", "h z s l, z l h p -> z s h p", {"h": heads, "z": chunks, "s": chunk, "l": chunk, "p": width}),
            Op("states", "z l n, z l h p -> z h p n", {"z": chunks, "l": chunk, "n": state, "h": heads, "p": width}),
            Op("pass", "z h p n, z h -> z h p n", {"z": chunks, "h": heads, "p": width, "n": state}, iterative=("z",)),
            Op("outside", "z s n, z h p n -> z s h p", {"z": chunks, "s": chunk, "n": state, "h": heads, "p": width}),
            Op("out", "t i, i d -> t d", {"t": t, "i": inner, "d": d}),
        ),
    )
    by_hand = (
        t * d * (2 * inner + 2 * state + heads)
        + t * 4 * (inner + 2 * state)
        + t * chunk * state
        + t * chunk * inner
        + t * state * inner
        + t * state * inner
        + t * inner * d
    )
    assert float(graph.macs()) == pytest.approx(by_hand, rel=0.01)
    recurrence = next(op for op in graph if op.name == "pass")
    assert recurrence.steps() == chunks


def test_dit_xl_2_block_matches_the_paper() -> None:
    """DiT-XL/2 at 256 x 256 (arXiv:2212.09748, Table 1): 28 blocks, width 1152, 16 heads, 256 tokens, 118.6 GMACs."""
    t, d, heads, width, layers = 256, 1152, 16, 72, 28
    sizes = {"t": t, "l": t, "d": d, "h": heads, "c": width, "u": 3, "f": 4 * d}
    block = (
        Op("modulation", "b d, d o -> b o", {"b": 1, "d": d, "o": 6 * d}, count=layers),
        Op("qkv", "t d, d u h c -> t u h c", sizes, count=layers),
        Op("scores", "h t c, h l c -> h t l", sizes, count=layers),
        Op("values", "h t l, h l c -> h t c", sizes, count=layers),
        Op("out", "t h c, h c d -> t d", sizes, count=layers),
        Op("up", "t d, d f -> t f", sizes, count=layers),
        Op("down", "t f, f d -> t d", sizes, count=layers),
    )
    patch = Op("patch", "t i, i d -> t d", {"t": t, "i": 16, "d": d})
    final = Op("final", "t d, d o -> t o", {"t": t, "d": d, "o": 32})
    assert float(Graph("dit", (*block, patch, final)).macs()) == pytest.approx(118.6e9, rel=0.01)


def test_lstm_cell() -> None:
    """One layer, input 512, hidden 1024, 100 steps: 4 gates x (input + hidden) x hidden MACs per step, in series."""
    sizes = {"t": 100, "b": 8, "i": 512, "h": 1024, "g": 4, "o": 1024}
    graph = Graph(
        "lstm",
        (
            Op("input", "t b i, g i o -> t b g o", sizes),
            Op("recurrent", "t b h, g h o -> t b g o", sizes, iterative=("t",)),
            Op("gates", "t b g o -> t b g o", sizes, map="sigmoid", reduce="none"),
        ),
    )
    assert float(graph.macs()) == 100 * 8 * 4 * 1024 * (512 + 1024)
    assert graph.ops[1].steps() == 100
    assert graph.ops[2].macs() == 0


def test_homomorphic_modular_multiply() -> None:
    """CKKS: two ciphertexts of 2 polynomials, ring degree 2**16, 30 limbs of 60 bits: 4 products per slot and limb."""
    sizes = {"i": 2, "j": 2, "l": 30, "n": 2**16}
    op = Op(
        "multiply",
        "i l n, j l n -> i j l n",
        sizes,
        map="modmul",
        reduce="none",
        bits={"in0": 60, "in1": 60, "out": 60},
    )
    assert op.points() == 4 * 30 * 2**16
    assert op.flops() == 3 * op.points()  # a modular product is a product and a two-step reduction
    assert op.bytes({"activation": 60}) == (2 + 2 + 4) * 30 * 2**16 * 60 / 8


def test_key_switch_inner_product_counts_macs() -> None:
    """The inner product with a switching key: digits x limbs x degree modular MACs for each of two polynomials."""
    sizes = {"j": 3, "o": 2, "l": 33, "n": 2**16}
    op = Op("key_switch", "j l n, j o l n -> o l n", sizes, map="modmul")
    assert op.macs() == 3 * 2 * 33 * 2**16
    assert np.all(op.flops() > 2 * op.macs())
