"""Convolutions and attention together: LeViT (Graham et al., ICCV 2021), MobileViT (Mehta and Rastegari, ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError, show
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.mobile import Block, Once
from steelyard.workload.networks.sizes import Size, times

__all__ = ["LeVit", "MobileVit"]


@dataclass(frozen=True, slots=True)
class LeVit:
    """Four strided convolutions, then three stages of attention with a learned bias by place, all batch normalised.

    Values are twice as wide as keys; between stages queries see every second row and column. Two classifiers, whose
    mean is the answer.
    """

    widths: tuple[int, ...] = (128, 256, 384)
    depths: tuple[int, ...] = (4, 4, 4)
    heads: tuple[int, ...] = (4, 8, 12)
    key: int = 16
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.image(self.channels, size)
        for i in range(4):
            x = net.conv_norm(x, self.widths[0] // 2 ** (3 - i), 3, 2, act="hardswish" if i < 3 else "")
        side = net.size(x, 2)
        if net.size(x, 3) != side:
            raise InputError(f"expected a square image, got {show(size)}", field="size")
        x = net.transpose(net.flatten(x, 2), 1, 2)
        for stage, (width, depth, heads) in enumerate(zip(self.widths, self.depths, self.heads, strict=True)):
            if stage:
                with net.within(f"stages.{stage}.down"):
                    x = self._attention(net, x, (side, -(-side // 2)), width, net.size(x, 2) // self.key, 4)
                    side = -(-side // 2)
                    x = net.add(x, self._mlp(net, x))
            for i in range(depth):
                with net.within(f"stages.{stage}.{i}"):
                    x = net.add(x, self._attention(net, x, (side, side), width, heads, 2))
                    x = net.add(x, self._mlp(net, x))
        x = net.mean(x, (1,), keep=False)
        both = net.add(*(net.linear(net.norm(x), self.classes) for _ in range(2)))
        return net.binary("div", both, net.value((), "constant"))

    def _linear(self, net: Builder, x: int, features: int) -> int:
        """A linear layer without a bias, its rows batch normalised."""
        batch, rows, _ = net.shape(x)
        y = net.linear(x, features, bias=False)
        return net.view(net.norm(net.view(y, times(batch, rows), features)), batch, rows, features)

    def _mlp(self, net: Builder, x: int) -> int:
        width = net.size(x, 2)
        return self._linear(net, net.act(self._linear(net, x, 2 * width), "hardswish", inplace=False), width)

    def _attention(self, net: Builder, x: int, sides: tuple[int, int], width: int, heads: int, ratio: int) -> int:
        batch, rows, _ = net.shape(x)
        key, value, wide = self.key, self.key * ratio, net.size(x, 2)
        asked: Size = sides[1] ** 2
        if sides[0] == sides[1]:
            qkv = net.view(self._linear(net, x, heads * (2 * key + value)), batch, rows, heads, -1)
            q, k, v = net.split(qkv, (key, key, value), 3)
        else:
            kv = net.view(self._linear(net, x, heads * (key + value)), batch, rows, heads, -1)
            k, v = net.split(kv, (key, value), 3)
            seen = net.part(net.view(x, batch, sides[0], sides[0], wide), sides[1], 1)
            seen = net.view(net.copy(net.part(seen, sides[1], 2)), batch, asked, wide)
            q = net.view(self._linear(net, seen, heads * key), batch, asked, heads, key)
        flat = times(batch, heads)
        q = net.view(net.copy(net.permute(q, 0, 2, 1, 3)), flat, asked, key)
        k = net.view(net.copy(net.permute(k, 0, 2, 3, 1)), flat, key, rows)
        v = net.view(net.copy(net.permute(v, 0, 2, 1, 3)), flat, rows, value)
        scores = net.view(net.matmul(q, k), batch, heads, asked, rows)
        scores = net.mul(scores, net.value((), "constant"))
        table = (net.weight(heads, sides[0] ** 2), net.buffer(asked, rows, dtype="i64"))
        scores = net.softmax(net.add(scores, net.node("gather", table, (heads, asked, rows))))
        y = net.view(net.matmul(net.view(scores, flat, asked, rows), v), batch, heads, asked, value)
        y = net.view(net.copy(net.transpose(y, 1, 2)), batch, asked, heads * value)
        return self._linear(net, net.act(y, "hardswish", inplace=False), width)


@dataclass(frozen=True, slots=True)
class MobileVit:
    """Inverted residuals, and in the last three stages attention among the pixels at one place of every 2x2 patch."""

    widths: tuple[int, ...] = (16, 32, 64, 96, 128, 160, 640)
    inner: tuple[int, ...] = (144, 192, 240)
    depths: tuple[int, ...] = (2, 4, 3)
    expand: int = 4
    heads: int = 4
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 64."""
        stem, first, second, *later, last = self.widths
        x = net.conv_norm(net.image(self.channels, size), stem, 3, 2, act="silu")
        for width, stride, count in ((first, 1, 1), (second, 2, 3)):
            for i in range(count):
                x = self._residual(net, x, width, 1 if i else stride)
        for stage, (width, inner, depth) in enumerate(zip(later, self.inner, self.depths, strict=True)):
            with net.within(f"stages.{stage + 2}"):
                x = self._block(net, self._residual(net, x, width, 2), inner, depth)
        return net.classify(net.conv_norm(x, last, act="silu"), self.classes)

    def _residual(self, net: Builder, x: int, width: int, stride: int) -> int:
        return Once(net, Block("mb", width, 3, stride, float(self.expand), act="silu"))(x)

    def _block(self, net: Builder, x: int, inner: int, depth: int) -> int:
        width = net.channels(x)
        y = net.conv(net.conv_norm(x, width, 3, act="silu"), inner)
        batch, high, wide = net.shape(y)[0], net.size(y, 2) // 2, net.size(y, 3) // 2
        rows = times(batch, inner * high)
        y = net.copy(net.permute(net.view(y, rows, 2, wide, 2), 0, 2, 1, 3))
        y = net.copy(net.permute(net.view(y, batch, inner, high * wide, 4), 0, 3, 2, 1))
        y = net.view(y, times(batch, 4), high * wide, inner)
        for _ in range(depth):
            y = net.add(y, net.self_attention(net.layer_norm(y), self.heads))
            y = net.add(y, net.mlp(net.layer_norm(y), 2 * inner, act="silu"))
        y = net.view(net.layer_norm(y), batch, 4, high * wide, inner)
        y = net.view(net.copy(net.permute(y, 0, 3, 2, 1)), rows, wide, 2, 2)
        y = net.copy(net.permute(y, 0, 2, 1, 3))
        y = net.conv_norm(net.view(y, batch, inner, 2 * high, 2 * wide), width, act="silu")
        return net.conv_norm(net.concat([x, y]), width, 3, act="silu")
