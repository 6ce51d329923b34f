"""Hybrids of convolutions and attention: CAS-ViT (Zhang et al. 2024), whose attention is additive, CoAtNet (Dai et al.,
NeurIPS 2021) and AsCAN (Kag et al., NeurIPS 2024), whose stages go over from convolutions to attention."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError, show
from steelyard.workload.networks.builder import Builder

__all__ = ["AsCan", "CasVit", "CoAtNet"]


@dataclass(frozen=True, slots=True)
class CasVit:
    """Queries and keys pass gates of space and channels, are added and multiplied with the values: no softmax."""

    depths: tuple[int, ...] = (2, 2, 4, 2)
    widths: tuple[int, ...] = (48, 56, 112, 220)
    hidden: int = 4
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = net.image(self.channels, size)
        for width in (self.widths[0] // 2, self.widths[0]):
            x = net.relu(net.norm(net.conv(x, width, 3, 2, bias=True)))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                x = net.norm(net.conv(x, width, 3, 2, bias=True))
            for i in range(depth):
                with net.within(f"stages.{stage}.{i}"):
                    x = self._block(net, x)
        x = net.mean(net.flatten(net.norm(x), 2), (2,), keep=False)
        answers = [net.linear(x, self.classes) for _ in range(2)]
        return net.mul(net.add(*answers), net.value((), "constant"))

    def _block(self, net: Builder, x: int) -> int:
        c = net.channels(x)
        y = net.norm(net.conv(x, c, bias=True))
        y = net.gelu(net.conv(y, c, 3, groups=c, bias=True))
        x = net.add(x, net.conv(y, c, bias=True))
        q, k, v = net.split(net.conv(net.norm(x), 3 * c), 3)
        y = net.conv(net.add(self._gated(net, q), self._gated(net, k)), c, 3, groups=c, bias=True)
        x = net.add(x, net.conv(net.mul(y, v), c, 3, groups=c, bias=True))
        y = net.gelu(net.conv(net.norm(x), c * self.hidden, bias=True))
        return net.add(x, net.conv(y, c, bias=True))

    def _gated(self, net: Builder, x: int) -> int:
        """A gate for every place, from a depthwise layer, and one for every channel, from the mean."""
        c = net.channels(x)
        y = net.relu(net.norm(net.conv(x, c, 3, groups=c, bias=True)))
        x = net.mul(x, net.sigmoid(net.conv(y, 1)))
        return net.mul(x, net.sigmoid(net.conv(net.mean(x), c)))


@dataclass(frozen=True, slots=True)
class AsCan:
    """A stem and four stages of blocks, ``C`` of a wide 3x3 convolution with a gate, ``T`` of attention and a
    feed-forward; more ``C`` early and more ``T`` late."""

    stages: tuple[str, ...] = ("CC", "CCC", "CCCTTT", "TTTT")
    widths: tuple[int, ...] = (64, 128, 256, 512)
    head: int = 32
    grown: int = 4
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32.

        Raises:
            InputError: a stage has other letters, or there are not as many stages as widths.
        """
        if len(self.stages) != len(self.widths) or any(set(s) - {"C", "T"} or not s for s in self.stages):
            raise InputError(f"expected a text of C and T for each width, got {show(self.stages)}", field="stages")
        x = net.conv_norm(net.image(self.channels, size), self.widths[0], 3, 2, act="gelu")
        x = net.conv(x, self.widths[0], 3, bias=True)
        for stage, (blocks, width) in enumerate(zip(self.stages, self.widths, strict=True)):
            for i, kind in enumerate(blocks):
                with net.within(f"stages.{stage}.{i}"):
                    stride = 2 if i == 0 else 1
                    x = self._convolved(net, x, width, stride) if kind == "C" else self._attended(net, x, width, stride)
        return net.classify(x, self.classes)

    def _convolved(self, net: Builder, x: int, width: int, stride: int) -> int:
        beside = x
        if stride == 2:
            beside = net.conv(net.avg_pool(x, 2, 2), width, bias=True)
        y = net.conv_norm(net.norm(x), self.grown * width, 3, stride, act="gelu")
        y = net.squeeze(y, width // 4, act="silu")
        return net.add(net.conv(y, width, bias=True), beside)

    def _attended(self, net: Builder, x: int, width: int, stride: int) -> int:
        if stride == 2:
            x = net.conv(net.avg_pool(x, 2, 2), width, bias=True)
        batch, _, high, wide = net.shape(x)
        x = net.transpose(net.flatten(x, 2), 1, 2)
        x = net.add(x, net.self_attention(net.layer_norm(x), width // self.head))
        x = net.add(x, net.mlp(net.layer_norm(x), 4 * width))
        return net.view(net.copy(net.transpose(x, 1, 2)), batch, width, high, wide)


@dataclass(frozen=True, slots=True)
class CoAtNet:
    """A stem, two stages of inverted residuals, then attention whose scores have a learned part by distance.

    ``before``: inverted residuals, of so many channels, that the third stage starts with (the largest ones).
    """

    depths: tuple[int, ...] = (2, 3, 5, 2)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stem: int = 64
    before: tuple[int, ...] = ()
    head: int = 32
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = net.conv_norm(net.image(self.channels, size), self.stem, 3, 2, act="gelu")
        x = net.conv(x, self.stem, 3, bias=True)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            with net.within(f"stages.{stage}"):
                convs = (width,) * depth if stage < 2 else self.before if stage == 2 else ()
                for i, c in enumerate(convs):
                    x = self._inverted(net, x, c, 1 if i else 2)
                for i in range(depth if stage > 1 else 0):
                    x = self._attended(net, x, width, 1 if i or convs else 2)
        return net.classify(x, self.classes)

    def _inverted(self, net: Builder, x: int, width: int, stride: int) -> int:
        beside = x
        if stride == 2 or net.channels(x) != width:
            beside = net.conv(net.avg_pool(x, 2, 2) if stride == 2 else x, width, bias=True)
        hidden = 4 * width
        y = net.conv_norm(net.conv_norm(net.norm(x), hidden, act="gelu"), hidden, 3, stride, groups=hidden, act="gelu")
        return net.add(net.conv(net.squeeze(y, width // 4, act="silu"), width, bias=True), beside)

    def _attended(self, net: Builder, x: int, width: int, stride: int) -> int:
        if stride == 2 or net.channels(x) != width:
            x = net.conv(net.avg_pool(x, 2, 2) if stride == 2 else x, width, bias=True)
        batch, _, high, wide = net.shape(x)
        heads, n = width // self.head, net.size(x, 2) * net.size(x, 3)
        x = net.transpose(net.flatten(x, 2), 1, 2)
        qkv = net.view(net.linear(net.layer_norm(x), 3 * width), batch, n, 3, heads, self.head)
        q, k, v = net.unbind(net.permute(qkv, 2, 0, 3, 1, 4))
        places = (2 * net.size(x, 1) - 1,)
        bias = net.node("gather", (net.weight(*places, heads), net.buffer(n, n, dtype="i64")), (1, heads, n, n))
        y = net.copy(net.transpose(net.attention(q, k, v, mask=bias), 1, 2))
        x = net.add(x, net.linear(net.view(y, batch, n, width), width))
        x = net.add(x, net.mlp(net.layer_norm(x), 4 * width))
        return net.view(net.copy(net.transpose(x, 1, 2)), batch, width, high, wide)
