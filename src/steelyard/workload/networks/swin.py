"""Swin transformers (Liu et al., ICCV 2021): attention in windows of an image, moved by half a window every second;
with linear attention (FLatten, Han et al., ICCV 2023; SLAB, Guo et al., ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import times
from steelyard.workload.networks.values import symbol

__all__ = ["Swin"]


@dataclass(frozen=True, slots=True)
class Swin:
    """Four stages, each but the first joins 2x2 patches; heads grow with the width.

    A window is at most the whole map. ``linear``: the first two stages multiply keys with values first, ``focused``
    with queries and keys made sharper (FLatten), ``simple`` with rectified ones (SLAB). ``folded``: normalisations are
    of a batch and part of the weights of what follows, as re-parameterised ones are when they are deployed.
    """

    depths: tuple[int, ...] = (2, 2, 6, 2)
    width: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    patch: int = 4
    window: int = 7
    hidden: int = 4
    linear: Literal["", "focused", "simple"] = ""
    folded: bool = False
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides must hold whole windows."""
        x = net.conv(net.image(self.channels, size), self.width, self.patch, self.patch, 0, bias=True)
        x = self._norm(net, net.permute(x, 0, 2, 3, 1))
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage:
                x = self._joined(net, x)
            for i in range(depth):
                with net.within(f"layers.{stage}.{i}"):
                    moved = bool(i % 2) and net.size(x, 1) > self.window
                    x = self._block(net, x, heads, linear=bool(self.linear) and stage < 2, moved=moved)
        return net.linear(net.mean(self._norm(net, x), (1, 2), keep=False), self.classes)

    def _norm(self, net: Builder, x: int) -> int:
        return x if self.folded else net.layer_norm(x)

    def _joined(self, net: Builder, x: int) -> int:
        batch, c = net.shape(x)[0], net.size(x, 3)
        x = net.copy(x)
        height, width = net.size(x, 1) // 2, net.size(x, 2) // 2
        x = net.permute(net.view(x, batch, height, 2, width, 2, c), 0, 1, 3, 4, 2, 5)
        x = net.view(net.copy(x), batch, height, width, 4 * c)
        return net.linear(self._norm(net, x), 2 * c, bias=False)

    def _block(self, net: Builder, x: int, heads: int, *, linear: bool, moved: bool) -> int:
        batch, height, width, c = net.shape(x)
        y = net.copy(self._norm(net, x))
        if moved:
            y = net.copy(y)
        w = min(self.window, net.size(x, 1))
        high, wide = net.size(x, 1) // w, net.size(x, 2) // w
        y = net.permute(net.view(y, batch, high, w, wide, w, c), 0, 1, 3, 2, 4, 5)
        several = high * wide > 1
        y = net.view(net.copy(y) if several else y, times(batch, high * wide), w * w, c)
        shifted = high * wide if moved else 0
        y = self._linear(net, y, heads, w) if linear else self._attention(net, y, heads, w, shifted)
        y = net.permute(net.view(y, batch, high, wide, w, w, c), 0, 1, 3, 2, 4, 5)
        y = net.view(net.copy(y) if several else y, batch, height, width, c)
        if moved:
            y = net.copy(y)
        x = net.view(net.add(x, y), batch, times(height, width), c)
        x = net.add(x, net.mlp(self._norm(net, x), net.size(x, 2) * self.hidden))
        return net.view(x, batch, height, width, c)

    def _attention(self, net: Builder, x: int, heads: int, window: int, windows: int) -> int:
        """Products, bias by place and softmax as single kernels, heads copied to matrices between."""
        rows, places, _ = net.shape(x)
        c = net.size(x, 2)
        head, n = c // heads, window**2
        qkv = net.permute(net.view(net.linear(x, 3 * c), rows, places, 3, heads, head), 2, 0, 3, 1, 4)
        q, k, v = net.unbind(qkv)
        q = net.mul(q, net.value((), "constant"))
        flat = times(rows, heads)
        q = net.view(net.copy(q), flat, n, head)
        k = net.view(net.copy(net.transpose(k)), flat, head, n)
        scores = net.view(net.matmul(q, k), rows, heads, n, n)
        index = net.view(net.buffer(n, n, dtype="i64"), n * n)
        bias = net.node("gather", (net.weight((2 * window - 1) ** 2, heads), index), (n * n, heads))
        bias = net.copy(net.permute(net.view(bias, n, n, heads), 2, 0, 1))
        scores = net.add(scores, net.view(bias, 1, heads, n, n))
        if windows:
            mask = net.view(net.buffer(windows, n, n), 1, windows, 1, n, n)
            scores = net.add(net.view(scores, symbol("batch"), windows, heads, n, n), mask)
            scores = net.view(scores, rows, heads, n, n)
        scores = net.view(net.softmax(scores), flat, n, n)
        y = net.matmul(scores, net.view(net.copy(v), flat, n, head))
        y = net.copy(net.transpose(net.view(y, rows, heads, n, head), 1, 2))
        return net.linear(net.view(y, rows, places, c), c)

    def _linear(self, net: Builder, x: int, heads: int, window: int) -> int:
        """Sums of keys times values, queries times those, over the sum of all; a depthwise layer over the values."""
        rows, n, _ = net.shape(x)
        c = net.size(x, 2)
        head, flat = c // heads, times(rows, heads)
        qkv = net.permute(net.view(net.linear(x, 3 * c), rows, n, 3, c), 2, 0, 1, 3)
        q, k, v = net.unbind(qkv)
        k = net.add(k, net.weight(1, n, c))
        q, k = (net.act(t, "relu", inplace=False) for t in (q, k))
        if self.linear == "focused":
            q, k = (self._sharper(net, t) for t in (q, k))
        q, k, v = (
            net.view(net.copy(net.transpose(net.view(t, rows, n, heads, head), 1, 2)), flat, n, head) for t in (q, k, v)
        )
        total = net.view(net.mean(k, (1,), keep=False), flat, head, 1)
        y = net.matmul(q, net.matmul(net.transpose(k), v))
        y = net.binary("div", y, net.add(net.matmul(q, total), net.value((), "constant")))
        image = net.view(net.copy(net.transpose(v)), flat, head, window, window)
        image = net.conv(image, head, 5, groups=head, bias=True)
        y = net.add(y, net.copy(net.transpose(net.view(image, flat, head, n))))
        y = net.copy(net.transpose(net.view(y, rows, heads, n, head), 1, 2))
        return net.linear(net.view(y, rows, n, c), c)

    def _sharper(self, net: Builder, x: int) -> int:
        """Scaled, to the third power, and brought back to their length."""
        rows, n, c = net.shape(x)
        x = net.binary("div", x, net.weight(1, 1, c))
        before = net.node("norm", (x,), (rows, n, 1))
        y = net.mul(net.mul(x, x), x)
        return net.mul(net.binary("div", y, net.node("norm", (y,), (rows, n, 1))), before)
