"""Networks of depthwise and inverted residual blocks, each a few words: MobileNet v1 to v4, MnasNet, EfficientNet v1
and v2, FBNet, ProxylessNAS and what others found by search.

A row of blocks is text, ``KIND CHANNELS WORD...``:

========  =============================================================================================
``conv``  a convolution, its normalisation and activation
``sep``   a depthwise one and a 1x1, both activated, no shortcut (MobileNet v1)
``ds``    a depthwise one, squeeze and excitation where asked, a 1x1 without activation
``mb``    an inverted residual: 1x1 that expands, depthwise, squeeze and excitation, 1x1
``fused`` the same with the first two as one convolution
``uib``   MobileNet v4's: a depthwise one before the 1x1 (``a5``, ``a0``: none), one after (``k5``, ``k0``: none)
========  =============================================================================================

``k3`` kernel, ``s2`` stride of the first block, ``x6`` expansion, ``n4`` blocks, ``r4`` squeeze and excitation at a
fourth, ``g2`` groups of the 1x1, ``a3`` as above, ``relu``, ``relu6``, ``silu``, ``hardswish``: the activation.
``mb 24 k3 s2 x6 | mb 24 k5 x3`` is a row of unlike blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Literal

from steelyard.errors import InputError, show
from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder

__all__ = ["Block", "Mobile", "Once", "blocks_of", "rounded"]

_KINDS = ("conv", "sep", "ds", "mb", "fused", "uib")
_WORD = re.compile(r"([ksxnrga])(\d+(?:\.\d+)?)")
_ACTS = ("relu", "relu6", "silu", "hardswish", "gelu")


def rounded(channels: float, step: int = 8) -> int:
    """The multiple of ``step`` nearest to a scaled width, and not a tenth below it."""
    found = max(step, int(channels + step / 2) // step * step)
    return found + step if found < 0.9 * channels else found


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a row; see the module for its words."""

    kind: str
    channels: int
    kernel: int = 3
    stride: int = 1
    expand: float = 1.0
    reduce: float = 0.0
    groups: int = 1
    before: int = 0
    act: str = ""


def _read(row: str) -> tuple[Block, int]:
    """The block that a row says, and how many of them. Raises :class:`InputError`."""
    kind, *words = row.split() or [""]
    if kind not in _KINDS or not words or not words[0].isdecimal():
        raise InputError(f"expected a row such as 'mb 24 k3 s2 x6 n2', got {show(row)}", field="stages")
    says: dict[str, float] = {}
    act = ""
    for word in words[1:]:
        found = _WORD.fullmatch(word)
        if found is None and word not in _ACTS:
            raise InputError(f"expected words such as k3, s2, x6, n2, r4 or relu, got {show(word)}", field="stages")
        if found is None:
            act = word
        else:
            says[found[1]] = float(found[2])
    block = Block(
        kind,
        int(words[0]),
        int(says.get("k", 3)),
        int(says.get("s", 1)),
        says.get("x", 1.0),
        says.get("r", 0.0),
        int(says.get("g", 1)),
        int(says.get("a", 0)),
        act,
    )
    count = int(says.get("n", 1))
    if min(block.channels, block.stride, block.groups) < 1 or not 1 <= count <= 1000:
        said = "expected channels, strides and groups of at least 1 and 1 to 1,000 blocks"
        raise InputError(f"{said}, got {show(row)}", field="stages")
    return block, count


def blocks_of(row: str, width: float = 1.0, depth: float = 1.0, act: str = "") -> list[Block]:
    """The blocks of a row, widths and the number of like ones scaled. Raises :class:`InputError`."""
    found: list[Block] = []
    for text in row.split("|"):
        block, count = _read(text)
        first = replace(block, channels=rounded(block.channels * width), act=block.act or act)
        found += [first] + [replace(first, stride=1)] * (ceil(count * depth) - 1)
    return found


@dataclass(frozen=True, slots=True)
class Mobile:
    """A stem, rows of blocks and a head.

    ``width`` scales channels, ``depth`` the blocks of a row; ``squeezed``: squeeze and excitation is a part of a
    block's input or of its expanded width; ``head`` channels come before the mean or after it (with a bias or a
    normalisation), wider where ``width`` is above 1 unless ``scaled_head`` says otherwise.
    """

    stages: tuple[str, ...] = ("ds 16", "mb 24 s2 x6 n2", "mb 32 s2 x6 n3", "mb 64 s2 x6 n4", "mb 96 x6 n3")
    stem: int = 32
    head: int = 1280
    placed: Literal["before", "after", "after-norm"] = "before"
    act: str = "relu6"
    width: Annotated[float, Quantity("1", "times the channels of every row", gt=0, le=100)] = 1.0
    depth: Annotated[float, Quantity("1", "times the blocks of a row", gt=0, le=100)] = 1.0
    squeezed: Literal["input", "expanded"] = "input"
    scaled_stem: bool = True
    scaled_head: Literal["up", "always", "never"] = "up"
    channels: int = 3
    classes: int = 1000

    def blocks(self) -> Iterator[Sequence[Block]]:
        """Every row as its blocks, widths and depths scaled."""
        for row in self.stages:
            yield blocks_of(row, self.width, self.depth, self.act)

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.image(self.channels, size)
        x = net.conv_norm(x, rounded(self.stem * self.width) if self.scaled_stem else self.stem, 3, 2, act=self.act)
        for i, row in enumerate(self.blocks()):
            for j, block in enumerate(row):
                with net.within(f"blocks.{i}.{j}"):
                    x = Once(net, block, self.squeezed)(x)
        return self._end(net, x)

    def _end(self, net: Builder, x: int) -> int:
        if not self.head:
            return net.classify(x, self.classes)
        wide = rounded(self.head * self.width)
        head = {"up": max(self.head, wide), "always": wide, "never": self.head}[self.scaled_head]
        if self.placed == "before":
            return net.classify(net.conv_norm(x, head, act=self.act), self.classes)
        y = net.conv(net.mean(x), self.head, bias=self.placed == "after")
        y = net.act(net.norm(y) if self.placed == "after-norm" else y, self.act)
        return net.linear(net.flatten(y), self.classes)


@dataclass(frozen=True, slots=True)
class Once:
    """One block appended to a network."""

    net: Builder
    block: Block
    squeezed: str = "input"

    def __call__(self, x: int) -> int:
        """Its output; a shortcut is added where the shape stays."""
        net, b = self.net, self.block
        kinds = {"conv": self._conv, "sep": self._sep, "ds": self._ds, "mb": self._mb, "fused": self._fused}
        y = kinds.get(b.kind, self._uib)(x)
        alone = b.kind == "sep" or (b.kind == "conv" and b.kernel == 1)
        kept = not alone and b.stride == 1 and net.channels(x) == b.channels
        return net.add(y, x) if kept else y

    def _squeeze(self, x: int, inputs: int) -> int:
        b = self.block
        if not b.reduce:
            return x
        if self.squeezed == "expanded":
            return self.net.squeeze(x, rounded(self.net.channels(x) / b.reduce), act="relu", gate="hardsigmoid")
        return self.net.squeeze(x, round(inputs / b.reduce), act=b.act, gate="sigmoid")

    def _depthwise(self, x: int, kernel: int, stride: int, act: str) -> int:
        return self.net.conv_norm(x, self.net.channels(x), kernel, stride, groups=self.net.channels(x), act=act)

    def _conv(self, x: int) -> int:
        return self.net.conv_norm(x, self.block.channels, self.block.kernel, self.block.stride, act=self.block.act)

    def _sep(self, x: int) -> int:
        y = self._depthwise(x, self.block.kernel, self.block.stride, self.block.act)
        return self.net.conv_norm(y, self.block.channels, act=self.block.act)

    def _ds(self, x: int) -> int:
        y = self._depthwise(x, self.block.kernel, self.block.stride, self.block.act)
        y = self._squeeze(y, self.net.channels(x))
        return self.net.conv_norm(y, self.block.channels, act="")

    def _mb(self, x: int) -> int:
        b, inputs = self.block, self.net.channels(x)
        y = self.net.conv_norm(x, rounded(inputs * b.expand), groups=b.groups, act=b.act)
        if b.groups > 1:
            y = self.net.channel_shuffle(y, b.groups)
        y = self._squeeze(self._depthwise(y, b.kernel, b.stride, b.act), inputs)
        return self.net.conv_norm(y, b.channels, groups=b.groups, act="")

    def _fused(self, x: int) -> int:
        b, inputs = self.block, self.net.channels(x)
        y = self.net.conv_norm(x, rounded(inputs * b.expand), b.kernel, b.stride, act=b.act)
        return self.net.conv_norm(self._squeeze(y, inputs), b.channels, act="")

    def _uib(self, x: int) -> int:
        b = self.block
        y = x
        if b.before:
            y = self._depthwise(x, b.before, 1 if b.kernel else b.stride, "")
        y = self.net.conv_norm(y, rounded(self.net.channels(x) * b.expand), act=b.act)
        if b.kernel:
            y = self._depthwise(y, b.kernel, b.stride, b.act)
        return self.net.conv_norm(y, b.channels, act="")
