"""The cases run in PyTorch, on the CPU or on a GPU that PyTorch sees. Imported only when PyTorch is installed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import prod
from typing import Any

import torch
import torch.nn.functional as nn

from steelyard.calibrate.measure.plan import Case
from steelyard.calibrate.measure.timing import Timer

__all__ = ["DTYPES", "Kernels", "find_device", "number_formats"]

DTYPES: dict[str, Any] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHAIN_EPS = 1e-5
SLOW_16_BIT = 1.5
"""16-bit products slower than this many times fp32 ones are emulated, and not measured."""
ROTARY_DIM = 64
"""Width of the rotated heads."""
VIEWS = 64
"""Places of the pool one case walks through, spread over all of it."""


def find_device(wanted: str = "") -> Any:
    """The device to measure: ``cpu`` unless a GPU is asked for (``gpu``, ``cuda``, ``mps``).

    Raises:
        InputError: PyTorch sees no such device.
    """
    from steelyard.errors import InputError

    name = wanted or "cpu"
    if name == "gpu":
        name = "cuda" if torch.cuda.is_available() else "mps"
    kind = name.split(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        have = ", ".join(k for k, v in present.items() if v)
        raise InputError(f"PyTorch sees no {wanted!r} device here; it has {have}", field="device")
    return torch.device(name)


def number_formats(device: Any, threads: int) -> tuple[str, ...]:
    """Formats worth measuring: fp32, and the 16-bit one the device multiplies at least as fast."""
    if device.type != "cpu":
        return ("bf16", "fp32") if device.type == "cuda" and torch.cuda.is_bf16_supported() else ("fp16", "fp32")
    torch.set_num_threads(threads)
    timer = Timer.thread() if threads == 1 else Timer.wall()
    seconds = {}
    with torch.inference_mode():
        for name in ("fp32", "bf16"):
            x, w = torch.ones(256, 512, dtype=DTYPES[name]), torch.ones(512, 512, dtype=DTYPES[name])
            seconds[name] = min(timer.once(lambda x=x, w=w: nn.linear(x, w)) for _ in range(15))  # type: ignore[misc]
    return ("fp32", "bf16") if seconds["bf16"] < SLOW_16_BIT * seconds["fp32"] else ("fp32",)


class Kernels:
    """Makes a callable for every case. Weights and caches rotate through a pool larger than the last-level cache."""

    def __init__(self, device: Any, pool_bytes: float, threads: int) -> None:
        self.device = device
        if device.type == "cpu":
            torch.set_num_threads(threads)
        self._pools: dict[str, Any] = {}
        self._pool_bytes = pool_bytes
        self._serial = count()

    def timer(self, threads: int) -> Timer:
        """The clock to time this device with."""
        if self.device.type == "cuda":
            return Timer.wall(torch.cuda.synchronize)
        if self.device.type == "mps":
            return Timer.wall(torch.mps.synchronize)
        return Timer.thread() if threads == 1 else Timer.wall()

    def call(self, case: Case) -> Callable[[], object]:
        """What to time for a case."""
        make = {
            "gemm": self._gemm,
            "conv": self._conv,
            "vector": self._vector,
            "prefill": self._prefill,
            "decode": self._decode,
            "stream": self._stream,
        }[case.op]
        body = make(case)

        def run() -> object:
            with torch.inference_mode():
                return body()

        return run

    def _new(self, case: Case, *shape: float) -> Any:
        return torch.randn([int(s) for s in shape], device=self.device, dtype=torch.float32).to(
            DTYPES[case.number_format]
        )

    def _rotating(self, case: Case, *shape: float) -> Callable[[], Any]:
        """Views of one shape that walk through the pool: each is cold when its turn comes again."""
        if case.number_format not in self._pools:
            dtype = DTYPES[case.number_format]
            block = (torch.rand(2**20, device=self.device) - 0.5).mul_(0.02).to(dtype)
            self._pools[case.number_format] = block.repeat(
                max(1, int(self._pool_bytes / (2**20 * block.element_size())))
            )
        pool = self._pools[case.number_format]
        sizes = [int(s) for s in shape]
        elements = prod(sizes)
        if elements > pool.numel():
            fresh = self._new(case, *shape)
            return lambda: fresh
        places = min(VIEWS, pool.numel() // elements)
        step = (pool.numel() - elements) // max(1, places - 1) // 64 * 64 if places > 1 else 0
        views = [pool[i * step : i * step + elements].view(sizes) for i in range(places)]
        number = count(7 * next(self._serial))
        return lambda: views[next(number) % places]

    def _gemm(self, case: Case) -> Callable[[], object]:
        s = case.shape
        if s["groups"] > 1:
            a, b = self._new(case, s["groups"], s["m"], s["k"]), self._new(case, s["groups"], s["k"], s["n"])
            return lambda: torch.bmm(a, b)
        x, weight = self._new(case, s["m"], s["k"]), self._rotating(case, s["n"], s["k"])
        return lambda: nn.linear(x, weight())

    def _conv(self, case: Case) -> Callable[[], object]:
        s = case.shape
        stride, kernel = int(s["stride"]), int(s["kernel"])
        x = self._new(case, s["batch"], s["c"], s["size"] * stride, s["size"] * stride)
        weight = self._rotating(case, s["k"], s["c"], kernel, kernel)
        return lambda: nn.conv2d(x, weight(), stride=stride, padding=(kernel - 1) // 2)

    def _vector(self, case: Case) -> Callable[[], object]:
        rows, width, f = case.shape["rows"], int(case.shape["width"]), nn
        x, y, w = self._new(case, rows, width), self._new(case, rows, width), self._new(case, width)
        heads = x.view(int(rows), -1, ROTARY_DIM)
        cos, sin = (self._new(case, rows, 1, ROTARY_DIM) for _ in range(2))

        def rotary() -> object:
            low, high = heads.chunk(2, -1)
            return heads * cos + torch.cat((-high, low), -1) * sin

        chains: dict[str, Callable[[], object]] = {
            "add_norm": lambda: f.rms_norm(x + y, (width,), w, CHAIN_EPS),
            "add_layer_norm": lambda: f.layer_norm(x + y, (width,), w, w, CHAIN_EPS),
            "gelu": lambda: f.gelu(x),
            "silu_mul": lambda: f.silu(x) * y,
            "relu": lambda: f.relu(x),
            "add": lambda: x + y,
            "add_relu": lambda: f.relu(x + y),
            "softmax": lambda: f.softmax(x, -1),
            "copy": lambda: y.copy_(x),
            "tanh": lambda: torch.tanh(x),
            "rotary": rotary,
        }
        return chains[case.detail]

    def _prefill(self, case: Case) -> Callable[[], object]:
        s = case.shape
        q = self._new(case, s["batch"], s["heads"], s["new"], s["head_dim"])
        k, v = (self._new(case, s["batch"], s["kv_heads"], s["new"], s["head_dim"]) for _ in range(2))
        grouped = s["heads"] != s["kv_heads"]
        return lambda: nn.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

    def _decode(self, case: Case) -> Callable[[], object]:
        s = case.shape
        q = self._new(case, s["batch"], s["heads"], 1, s["head_dim"])
        cache = self._rotating(case, 2, s["batch"], s["kv_heads"], s["context"], s["head_dim"])
        grouped = s["heads"] != s["kv_heads"]

        def body() -> object:
            k, v = cache()
            return nn.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)

        return body

    def _stream(self, case: Case) -> Callable[[], object]:
        elements = int(case.shape["bytes"]) // 4
        a = torch.ones(elements, device=self.device)
        if case.detail == "read":
            return lambda: a.sum()
        out = torch.empty_like(a)
        if case.detail == "copy":
            return lambda: out.copy_(a)
        b = torch.ones(elements, device=self.device)
        return lambda: torch.add(a, b, alpha=2.0, out=out)


def gpu_facts(device: Any) -> tuple[str, dict[str, float]]:
    """Name of a GPU and what its driver tells: units, memory, last-level cache, compute capability."""
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        return p.name, {
            "units": float(p.multi_processor_count),
            "memory_bytes": float(p.total_memory),
            "l2_bytes": float(getattr(p, "L2_cache_size", 0) or 2**22),
            "capability": p.major + p.minor / 10.0,
        }
    return "Apple GPU", {"units": 1.0, "memory_bytes": float(torch.mps.recommended_max_memory()), "l2_bytes": 2.0**23}
