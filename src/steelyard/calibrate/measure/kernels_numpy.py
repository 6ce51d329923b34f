"""The cases run in NumPy, where PyTorch is not installed: products through its BLAS, chains as array expressions.

NumPy has no fused attention, no convolution and no 16-bit products: those cases are left out, and the parameters of
attention stay borrowed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import prod
from typing import Any

import numpy as np

from steelyard.calibrate.measure.plan import Case
from steelyard.calibrate.measure.timing import Timer

__all__ = ["Kernels"]

VIEWS = 64
"""Places of the weight pool one case walks through, spread over all of it."""


class Kernels:
    """Makes a callable for every case it can run. Weights rotate through a pool larger than the last-level cache."""

    def __init__(self, pool_bytes: float) -> None:
        self._random = np.random.default_rng(0)
        block = (self._random.random(2**20, dtype=np.float32) - np.float32(0.5)) * np.float32(0.02)
        self._pool = np.tile(block, max(1, int(pool_bytes / block.nbytes)))
        self._serial = count()

    def timer(self) -> Timer:
        """The wall clock: a BLAS starts threads of its own, whose time the calling thread does not see."""
        return Timer.wall()

    def call(self, case: Case) -> Callable[[], object] | None:
        """What to time for a case; None when NumPy cannot run it."""
        if case.number_format != "fp32":
            return None
        if case.op == "gemm":
            return self._gemm(case)
        if case.op == "vector":
            return self._vector(case)
        return self._stream(case) if case.op == "stream" else None

    def _new(self, *shape: float) -> Any:
        return self._random.random([int(s) for s in shape], dtype=np.float32)

    def _gemm(self, case: Case) -> Callable[[], object]:
        s = case.shape
        if s["groups"] > 1:
            a, b = self._new(s["groups"], s["m"], s["k"]), self._new(s["groups"], s["k"], s["n"])
            return lambda: np.matmul(a, b)
        sizes = [int(s["n"]), int(s["k"])]
        elements = prod(sizes)
        pool = self._pool if elements <= self._pool.size else self._new(elements)
        places = max(1, min(VIEWS, pool.size // elements))
        step = (pool.size - elements) // max(1, places - 1) // 64 * 64 if places > 1 else 0
        views = [pool[i * step : i * step + elements].reshape(sizes).T for i in range(places)]
        x, number = self._new(s["m"], s["k"]), count(7 * next(self._serial))
        return lambda: x @ views[next(number) % places]

    def _vector(self, case: Case) -> Callable[[], object] | None:
        rows, width = case.shape["rows"], case.shape["width"]
        x, y, w = self._new(rows, width), self._new(rows, width), self._new(width)

        def norm() -> Any:
            h = x + y
            return h * (1.0 / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + np.float32(1e-5))) * w

        def layer_norm() -> Any:
            h = x + y
            h = h - h.mean(axis=-1, keepdims=True)
            return h * (1.0 / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + np.float32(1e-5))) * w + w

        def softmax() -> Any:
            e = np.exp(x - x.max(axis=-1, keepdims=True))
            return e / e.sum(axis=-1, keepdims=True)

        chains: dict[str, Callable[[], object]] = {
            "add_norm": norm,
            "add_layer_norm": layer_norm,
            "gelu": lambda: 0.5 * x * (1.0 + np.tanh(0.7978846 * (x + 0.044715 * x * x * x))),
            "silu_mul": lambda: x / (1.0 + np.exp(-x)) * y,
            "relu": lambda: np.maximum(x, 0.0),
            "add": lambda: x + y,
            "add_relu": lambda: np.maximum(x + y, 0.0),
            "softmax": softmax,
            "copy": lambda: np.copyto(y, x),
            "tanh": lambda: np.tanh(x),
        }
        return chains.get(case.detail)

    def _stream(self, case: Case) -> Callable[[], object]:
        a = np.ones(int(case.shape["bytes"]) // 4, dtype=np.float32)
        if case.detail == "read":
            return lambda: a.sum()
        out = np.empty_like(a)
        if case.detail == "copy":
            return lambda: np.copyto(out, a)
        b = np.ones_like(a)
        return lambda: np.add(a, b, out=out)
