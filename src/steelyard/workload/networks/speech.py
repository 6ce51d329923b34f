"""Networks over sound: ECAPA-TDNN (Desplanques 2020), Conformer (Gulati 2020), wav2vec 2.0 (Baevski 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["Conformer", "EcapaTdnn", "Wav2Vec2"]


@dataclass(frozen=True, slots=True)
class EcapaTdnn:
    """Time-delay layers with squeezes, one after another and joined, and a pool that attends to frames.

    ``size`` is the number of frames, 100 of them a second.
    """

    width: int = 512
    blocks: int = 3
    kernel: int = 3
    first: int = 5
    scale: int = 8
    gate: int = 128
    joint: int = 1536
    mels: int = 80
    embedding: int = 192
    body: int = 0
    whole: bool = True

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``scale``: parts of a block's channels;
        ``body``: channels of the blocks, where others than of the first layer; ``whole``: the pool sees all frames."""
        x = net.input((symbol("batch"), self.mels, size[0]))
        x = net.norm(net.relu(net.conv(x, self.width, self.first, bias=True)))
        kept = []
        for i in range(self.blocks):
            with net.within(f"blocks.{i}"):
                x = self._block(net, x, i + 2)
            kept.append(x)
        x = net.relu(net.conv(net.concat(kept), self.joint, 1, bias=True))
        pooled = net.norm(self._pool(net, x))
        return net.conv(pooled, self.embedding, 1, bias=True)

    def _layer(self, net: Builder, x: int, channels: int, kernel: int = 1, dilation: int = 1) -> int:
        return net.norm(net.relu(net.conv(x, channels, kernel, dilation=dilation, bias=True)))

    def _block(self, net: Builder, x: int, dilation: int) -> int:
        """Channels in parts, each with what the part before made of its own; a squeeze; a shortcut."""
        width = self.body or self.width
        y = self._layer(net, x, width)
        parts = list(net.split(y, self.scale))
        for i in range(1, self.scale):
            given = parts[i] if i == 1 else net.add(parts[i], parts[i - 1])
            parts[i] = self._layer(net, given, width // self.scale, self.kernel, dilation)
        y = self._layer(net, net.concat(parts), width)
        gate = net.relu(net.conv(net.mean(y, (2,)), self.gate, bias=True))
        beside = x if net.channels(x) == width else net.conv(x, width, bias=True)
        return net.add(net.mul(y, net.sigmoid(net.conv(gate, width, bias=True))), beside)

    def _pool(self, net: Builder, x: int) -> int:
        """Mean and deviation over frames, weighed by a small network that sees both of the whole."""
        batch, channels, frames = net.shape(x)
        whole = [net.expand(net.mean(x, (2,)), batch, channels, frames) for _ in range(2)] if self.whole else []
        y = self._layer(net, net.concat([x, *whole]) if whole else x, self.gate)
        y = net.softmax(net.conv(net.act(y, "tanh", inplace=False), self.joint, bias=True))
        mean = net.mean(net.mul(x, y), (2,))
        spread = net.act(net.mean(net.mul(net.mul(x, x), y), (2,)), "sqrt", inplace=False)
        return net.concat([mean, spread])


@dataclass(frozen=True, slots=True)
class Conformer:
    """Layers of half a feed-forward, attention with relative places, a convolution and the other half.

    ``size`` is the number of frames, 100 of them a second; two convolutions leave every fourth.
    """

    depth: int = 17
    width: int = 512
    heads: int = 8
    kernel: int = 31
    mels: int = 80
    classes: int = 1024

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``classes``: of the answer of a frame."""
        batch, d = symbol("batch"), self.width
        x = net.input((batch, 1, size[0], self.mels))
        for _ in range(2):
            x = net.relu(net.conv(x, d, 3, 2, bias=True))
        rows, bins = net.size(x, 2), net.size(x, 3)
        x = net.linear(net.view(net.copy(net.transpose(x, 1, 2)), batch, rows, d * bins), d)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.add(x, self._half(net, x))
                x = net.add(x, self._attend(net, net.layer_norm(x)))
                x = net.add(x, self._convolve(net, net.layer_norm(x)))
                x = net.layer_norm(net.add(x, self._half(net, x)))
        return net.linear(x, self.classes)

    def _half(self, net: Builder, x: int) -> int:
        return net.act(net.mlp(net.layer_norm(x), 4 * self.width, "silu"), "mul")

    def _attend(self, net: Builder, x: int) -> int:
        """Scores of contents and of places, which one frame has to all others."""
        batch, rows, d = net.shape(x)
        head = d // self.heads if isinstance(d, int) else 1
        q, k, v = (net.transpose(net.view(net.linear(x, d), batch, rows, self.heads, head), 1, 2) for _ in range(3))
        count = rows if isinstance(rows, int) else 1
        places = net.linear(net.buffer(1, 2 * count - 1, d), d, bias=False)
        places = net.permute(net.view(places, 1, 2 * count - 1, self.heads, head), 0, 2, 3, 1)
        shifted = net.part(net.copy(net.matmul(q, places)), rows, 3)
        scores = net.softmax(net.add(net.matmul(q, net.transpose(k)), shifted))
        y = net.transpose(net.matmul(scores, v), 1, 2)
        return net.linear(net.view(net.copy(y), batch, rows, d), d)

    def _convolve(self, net: Builder, x: int) -> int:
        """A gate, a depthwise convolution over frames, and two 1x1."""
        y, gate = net.split(net.conv(net.transpose(x, 1, 2), 2 * self.width, bias=True), 2)
        y = net.conv(net.mul(y, net.sigmoid(gate)), self.width, self.kernel, groups=self.width, bias=True)
        y = net.act(net.norm(y), "silu")
        return net.transpose(net.conv(y, self.width, bias=True), 1, 2)


@dataclass(frozen=True, slots=True)
class Wav2Vec2:
    """Convolutions over samples of sound, then a Transformer over what they leave, 50 frames a second.

    ``size`` is the number of samples, 16,000 of them a second.
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    channels: int = 512
    classes: int = 32

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``classes``: letters of the answer."""
        if size[0] < 400:
            raise InputError(f"expected at least 400 samples, got {size[0]}", field="size")
        x = net.input((symbol("batch"), 1, size[0]))
        for i, (kernel, stride) in enumerate(((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)):
            x = net.conv(x, self.channels, kernel, stride, 0)
            x = net.gelu(net.group_norm(x, self.channels) if i == 0 else x)
        x = net.linear(net.layer_norm(net.transpose(x, 1, 2)), self.width)
        _, rows, _ = net.shape(x)
        placed = net.conv(net.transpose(x, 1, 2), self.width, 128, 1, 64, groups=16, bias=True)
        x = net.layer_norm(net.add(x, net.gelu(net.transpose(net.part(placed, rows, 2), 1, 2))))
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.layer_norm(net.add(x, net.self_attention(x, self.heads)))
                x = net.layer_norm(net.add(x, net.mlp(x, self.hidden)))
        return net.linear(x, self.classes)
