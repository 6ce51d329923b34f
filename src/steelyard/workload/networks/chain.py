"""Networks that are one layer after another, each a few words: small convolutional networks and perceptrons.

======================  ==================================================================================
``conv 64 k5x3 s2 p0``  a convolution and its activation; ``p``: elements laid around (none: as at stride 1)
``sep 64 n4``           a depthwise convolution and a 1x1, both activated (``k3 s1 p1`` unless said)
``max 2 s2 p0``         the largest of a window; ``mean``: of the whole map
``linear 10``           a linear layer over all that is there; activated unless it is the last
======================  ==================================================================================

``n4``: so many of them. Biases are there, normalisations are folded into the weights, as networks are deployed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from steelyard.errors import InputError, show
from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["Chain"]

_KINDS = ("conv", "sep", "max", "mean", "linear")
_WORD = re.compile(r"([kspn])(\d+)(?:x(\d+))?")


def _read(row: str) -> tuple[str, int, Mapping[str, tuple[int, int]]]:
    """Kind, width and words of a row. Raises :class:`InputError`."""
    kind, *words = row.split() or [""]
    width = words.pop(0) if kind != "mean" and words else "0"
    found = [_WORD.fullmatch(w) for w in words]
    if kind not in _KINDS or not width.isdecimal() or not all(found) or (kind != "mean" and not int(width)):
        said = "expected rows such as 'conv 64 k10x4 s2 p0', 'sep 64 n4', 'max 2 s2', 'mean' or 'linear 10'"
        raise InputError(f"{said}, got {show(row)}", field="layers")
    says = {m[1]: (int(m[2]), int(m[3] or m[2])) for m in found if m}
    if any(not 1 <= s <= 1000 for key in says if key != "p" for s in says[key]):
        raise InputError(f"expected windows, steps and counts of 1 to 1,000, got {show(row)}", field="layers")
    return kind, int(width), says


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers in order; see the module for their words. ``channels`` of 0: the input is a row of numbers."""

    layers: tuple[str, ...] = ("conv 16 k3", "max 2 s2", "linear 10")
    act: Literal["relu", "relu6"] = "relu"
    channels: Annotated[int, Quantity("1", "of the image; 0: the input is no image", ge=0, le=65536)] = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.image(self.channels, size) if self.channels else net.input((symbol("batch"), size[0]))
        rows = [_read(row) for row in self.layers]
        for i, (kind, width, says) in enumerate(rows):
            for _ in range(says.get("n", (1, 1))[0]):
                for y in self._layer(net, x, kind, width, says, last=i == len(rows) - 1):
                    x = y
        return x

    def _layer(
        self, net: Builder, x: int, kind: str, width: int, says: Mapping[str, tuple[int, int]], last: bool
    ) -> Iterator[int]:
        stride, pad = says.get("s", (1, 1)), says.get("p")
        if kind == "linear":
            x = net.linear(net.flatten(x) if len(net.shape(x)) > 2 else x, width)
            yield x if last else net.act(x, self.act)
        elif kind == "mean":
            yield net.mean(x)
        elif kind == "max":
            yield net.max_pool(x, width, stride, pad or (0, 0), up=pad is None)
        elif kind == "conv":
            yield net.act(net.conv(x, width, says.get("k", (1, 1)), stride, pad, bias=True), self.act)
        else:
            x = net.conv(x, net.channels(x), says.get("k", (3, 3)), stride, pad, groups=net.channels(x), bias=True)
            yield net.act(net.conv(net.act(x, self.act), width, bias=True), self.act)
