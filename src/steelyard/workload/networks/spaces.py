"""Spaces of networks that are searched: NAS-Bench-201 (Dong and Yang, ICLR 2020), FBNet (Wu et al., CVPR 2019) and
once-for-all of MobileNetV3 (Cai et al., ICLR 2020). A network of a space is the family with its choices set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from steelyard.errors import InputError, UnknownName, show
from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.mobile import Block, Once, rounded

__all__ = ["CELL_OPS", "FBNET_OPS", "FbNet", "NasBench201", "OnceForAll", "fbnet_layer", "fbnet_layers"]

#: What an edge of a NAS-Bench-201 cell does.
CELL_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@dataclass(frozen=True, slots=True)
class NasBench201:
    """Three stages of cells on small images, a residual block that halves the image between.

    ``cell``: what its six edges do, as ``|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|...|``: one group for each
    node, ``OP~N`` takes node N.
    """

    cell: str = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    width: int = 16
    cells: int = 5
    channels: int = 3
    classes: int = 10

    def edges(self) -> list[list[tuple[str, int]]]:
        """Operation and source of every edge into nodes 1, 2, 3. Raises :class:`InputError`."""
        found = []
        for node, group in enumerate(self.cell[:400].split("+")):
            into = []
            for part in group.strip("|").split("|"):
                op, _, source = part.partition("~")
                if op not in CELL_OPS:
                    raise InputError(UnknownName("operation", op, CELL_OPS).message, field="cell")
                if not source.isdecimal() or int(source) > node:
                    raise InputError(f"expected a node before {node + 1} after ~, got {show(part)}", field="cell")
                into.append((op, int(source)))
            found.append(into)
        return found

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        edges = self.edges()
        x = net.conv_norm(net.image(self.channels, size), self.width, 3, act="")
        for stage in range(3):
            if stage:
                with net.within(f"reduction{stage}"):
                    x = self._halved(net, x, self.width * 2**stage)
            for i in range(self.cells):
                with net.within(f"cells.{stage}.{i}"):
                    x = self._cell(net, x, edges)
        x = net.relu(net.norm(x))
        return net.classify(x, self.classes)

    def _halved(self, net: Builder, x: int, width: int) -> int:
        y = self._unit(net, x, width, 3, 2)
        y = self._unit(net, y, width, 3, 1)
        return net.add(net.conv(net.avg_pool(x, 2, 2), width), y)

    def _unit(self, net: Builder, x: int, width: int, kernel: int, stride: int) -> int:
        return net.conv_norm(net.act(x, "relu", inplace=False), width, kernel, stride, act="")

    def _cell(self, net: Builder, x: int, edges: list[list[tuple[str, int]]]) -> int:
        nodes = [x]
        for into in edges:
            made = [self._edge(net, nodes[source], op) for op, source in into]
            total = made[0]
            for y in made[1:]:
                total = net.add(total, y)
            nodes.append(total)
        return nodes[-1]

    def _edge(self, net: Builder, x: int, op: str) -> int:
        if op == "skip_connect":
            return x
        if op == "none":
            return net.mul(x, net.value((), "constant"))
        if op == "avg_pool_3x3":
            return net.avg_pool(x, 3, 1, 1)
        return self._unit(net, x, net.channels(x), int(op[-1]), 1)


#: What a layer of an FBNet may be: kernel, expansion and groups of an inverted residual, or nothing.
FBNET_OPS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
_FBNET_ROWS = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))


def fbnet_layers() -> list[tuple[int, int]]:
    """Channels and stride of the 22 layers of an FBNet."""
    return [(c, s if not i else 1) for c, n, s in _FBNET_ROWS for i in range(n)]


def fbnet_layer(net: Builder, x: int, op: int, channels: int, stride: int) -> int:
    """One layer of an FBNet: an inverted residual, or nothing; where the size changes a 1x1 convolution instead."""
    kernel, *rest = FBNET_OPS[op].split("_")
    if kernel != "skip":
        groups = 2 if len(rest) > 1 else 1
        block = Block("mb", channels, int(kernel[1:]), stride, float(rest[0][1:]), groups=groups, act="relu")
        return Once(net, block)(x)
    return x if stride == 1 and net.channels(x) == channels else net.conv_norm(x, channels, 1, stride)


@dataclass(frozen=True, slots=True)
class FbNet:
    """22 layers, each one of nine; ``ops`` are their places in :data:`FBNET_OPS`, as ``3-3-8-...`` or a list."""

    ops: tuple[int, ...] = (3,) * 22
    width: Annotated[float, Quantity("1", "times the channels of every layer", gt=0, le=100)] = 1.0
    stem: int = 16
    head: int = 1984
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. A layer left out where the size changes is a
        1x1 convolution."""
        layers = fbnet_layers()
        if len(self.ops) != len(layers) or not all(0 <= op < len(FBNET_OPS) for op in self.ops):
            raise InputError(f"expected 22 numbers from 0 to 8, got {show(list(self.ops))}", field="ops")
        x = net.conv_norm(net.image(self.channels, size), rounded(self.stem * self.width), 3, 2)
        for i, (op, (c, stride)) in enumerate(zip(self.ops, layers, strict=True)):
            with net.within(f"blocks.{i}"):
                x = fbnet_layer(net, x, op, rounded(c * self.width), stride)
        return net.classify(net.conv_norm(x, self.head), self.classes)


@dataclass(frozen=True, slots=True)
class OnceForAll:
    """MobileNetV3-Large with a choice of depth by stage and of kernel and expansion by layer.

    ``kernels`` and ``expansions`` have four entries for each of five stages, of which ``depths`` say how many are used.
    """

    depths: tuple[int, ...] = (4, 4, 4, 4, 4)
    kernels: tuple[int, ...] = (7,) * 20
    expansions: tuple[float, ...] = (6.0,) * 20
    width: Annotated[float, Quantity("1", "times the channels of every row", gt=0, le=100)] = 1.2
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        if (len(self.depths), len(self.kernels), len(self.expansions)) != (5, 20, 20):
            raise InputError("expected 5 depths, 20 kernels and 20 expansions", field="depths")
        if not all(1 <= d <= 4 for d in self.depths):
            raise InputError(f"expected depths of 1 to 4, got {show(list(self.depths))}", field="depths")
        x = net.conv_norm(net.image(self.channels, size), rounded(16 * self.width), 3, 2, act="hardswish")
        x = Once(net, Block("ds", rounded(16 * self.width), act="relu"), "expanded")(x)
        rows = ((24, 2, 0, "relu"), (40, 2, 4, "relu"), (80, 2, 0, "hardswish"), (112, 1, 4, "hardswish"))
        for stage, (c, stride, reduce, act) in enumerate((*rows, (160, 2, 4, "hardswish"))):
            for i in range(self.depths[stage]):
                place = 4 * stage + i
                block = Block(
                    *("mb", rounded(c * self.width), self.kernels[place], 1 if i else stride),
                    expand=self.expansions[place],
                    reduce=float(reduce),
                    act=act,
                )
                with net.within(f"blocks.{stage}.{i}"):
                    x = Once(net, block, "expanded")(x)
        x = net.conv_norm(x, rounded(960 * self.width), act="hardswish")
        y = net.act(net.conv(net.mean(x), rounded(1280 * self.width)), "hardswish")
        return net.linear(net.flatten(y), self.classes)
