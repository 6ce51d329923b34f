"""Speech from text: HiFi-GAN (Kong 2020), FastSpeech 2 with Conformer layers (Ren 2021, Guo 2021), VITS (Kim 2021).

Sizes: tokens of a text, or frames of a spectrogram.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["ConformerSpeech", "HifiGan", "VitsFlow", "VitsText"]


@dataclass(frozen=True, slots=True)
class HifiGan:
    """Sound from frames: transposed convolutions, each before blocks of dilated ones whose answers are averaged.

    ``size`` is the frames. ``twice``: a plain convolution follows each dilated one.
    """

    mels: int = 80
    width: int = 512
    rates: tuple[int, ...] = (8, 8, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 4, 4)
    blocks: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    twice: bool = True
    bias: bool = True

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``bias``: of the last convolution.

        ``dilations``: of a block's convolutions; with more than are in one block, of the first block, the second...
        """
        x = net.conv(net.input((symbol("batch"), self.mels, size[0])), self.width, 7, bias=True)
        each = len(self.dilations) if len(self.dilations) <= 3 else len(self.dilations) // len(self.blocks)
        for i, (rate, kernel) in enumerate(zip(self.rates, self.kernels, strict=True)):
            with net.within(f"ups.{i}"):
                x = net.act(x, "leaky_relu", inplace=False)
                x = net.deconv(x, self.width >> i + 1, kernel, rate, (kernel - rate) // 2)
                total = -1
                for j, points in enumerate(self.blocks):
                    start = j * each if len(self.dilations) > each else 0
                    y = self._block(net, x, points, self.dilations[start : start + each])
                    total = y if total < 0 else net.add(total, y, inplace=True)
                x = net.act(total, "mul", inplace=False)
        x = net.conv(net.act(x, "leaky_relu", inplace=False), 1, 7, bias=self.bias)
        return net.act(x, "tanh", inplace=False)

    def _block(self, net: Builder, x: int, kernel: int, dilations: tuple[int, ...]) -> int:
        for dilation in dilations:
            y = x
            for step in (dilation, 1) if self.twice else (dilation,):
                y = net.act(y, "leaky_relu", inplace=False)
                y = net.conv(y, net.channels(x), kernel, dilation=step, bias=True)
            x = net.add(y, x)
        return x


@dataclass(frozen=True, slots=True)
class ConformerSpeech:
    """One side of FastSpeech 2: Conformer layers over the text with what predicts lengths, pitch and energy of each
    token (``words > 0``), or over frames with what makes their spectrum. ``size`` is the tokens or frames."""

    words: int = 78
    depth: int = 4
    width: int = 384
    heads: int = 2
    hidden: int = 1536
    points: int = 3
    kernel: int = 7
    mels: int = 80

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``points``: of the feed-forwards' windows,
        ``kernel``: of the depthwise convolution."""
        batch, rows, d = symbol("batch"), size[0], self.width
        x = net.embedding(net.tokens(rows), self.words, d) if self.words else net.input((batch, rows, d))
        x = net.act(x, "mul", inplace=False)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.layer_norm(net.add(x, net.act(self._forward(net, x), "mul", inplace=False)))
                x = net.layer_norm(net.add(x, self._attend(net, x, rows)))
                x = net.layer_norm(net.add(x, self._convolve(net, x)))
                x = net.layer_norm(net.add(x, net.act(self._forward(net, x), "mul", inplace=False)))
                x = net.layer_norm(x)
        return self._varied(net, x) if self.words else self._spectrum(net, x)

    def _forward(self, net: Builder, x: int) -> int:
        y = net.act(net.conv(net.transpose(x, 1, 2), self.hidden, self.points, bias=True), "relu", inplace=False)
        return net.transpose(net.conv(y, self.width, self.points, bias=True), 1, 2)

    def _attend(self, net: Builder, x: int, rows: int) -> int:
        """Scores of contents and of distances, each with an offset of its own."""
        batch, head = symbol("batch"), self.width // self.heads
        q, k, v = (net.view(net.linear(x, self.width), batch, rows, self.heads, head) for _ in range(3))
        places = net.linear(net.buffer(1, 2 * rows - 1, self.width), self.width, bias=False)
        places = net.permute(net.view(places, 1, 2 * rows - 1, self.heads, head), 0, 2, 3, 1)
        content, distance = (net.transpose(net.add(q, net.weight(self.heads, head)), 1, 2) for _ in range(2))
        near = net.matmul(content, net.permute(k, 0, 2, 3, 1))
        far = net.part(net.copy(net.matmul(distance, places)), rows, 3)
        scores = net.softmax(net.act(net.add(near, far), "mul", inplace=False))
        y = net.copy(net.transpose(net.matmul(scores, net.transpose(v, 1, 2)), 1, 2))
        return net.linear(net.view(y, batch, rows, self.width), self.width)

    def _convolve(self, net: Builder, x: int) -> int:
        y, gate = net.split(net.conv(net.transpose(x, 1, 2), 2 * self.width, bias=True), 2)
        y = net.conv(net.mul(y, net.sigmoid(gate)), self.width, self.kernel, groups=self.width, bias=True)
        y = net.act(net.norm(y), "silu", inplace=False)
        return net.transpose(net.conv(y, self.width, bias=True), 1, 2)

    def _predicted(self, net: Builder, x: int, layers: int, kernel: int) -> int:
        y = net.transpose(x, 1, 2)
        for _ in range(layers):
            y = net.act(net.conv(y, 256, kernel, bias=True), "relu", inplace=False)
            y = net.transpose(net.layer_norm(net.transpose(y, 1, 2)), 1, 2)
        return net.linear(net.transpose(y, 1, 2), 1)

    def _varied(self, net: Builder, x: int) -> int:
        self._predicted(net, x, 2, 3)  # lengths, on which the host waits
        pitch, energy = self._predicted(net, x, 5, 5), self._predicted(net, x, 2, 3)
        for one in (pitch, energy):
            told = net.conv(net.transpose(one, 1, 2), self.width, bias=True)
            x = net.add(x, net.transpose(told, 1, 2))
        return x

    def _spectrum(self, net: Builder, x: int) -> int:
        plain = net.linear(x, self.mels)
        y = net.transpose(plain, 1, 2)
        for i in range(5):
            y = net.norm(net.conv(y, self.mels if i == 4 else 256, 5))
            y = y if i == 4 else net.act(y, "tanh", inplace=False)
        return net.add(plain, net.transpose(y, 1, 2))


@dataclass(frozen=True, slots=True)
class VitsText:
    """The text side of VITS: layers of attention with learned near distances, and how long each token is spoken, which
    flows of splines draw. ``size`` is the tokens."""

    words: int = 38
    depth: int = 6
    width: int = 192
    heads: int = 2
    hidden: int = 768
    window: int = 4
    flows: int = 4
    bins: int = 10

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``window``: distances with learned keys."""
        rows = size[0]
        x = net.act(net.embedding(net.tokens(rows), self.words, self.width), "mul", inplace=False)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.layer_norm(net.add(x, self._attend(net, x, rows)))
                y = net.act(net.conv(net.transpose(x, 1, 2), self.hidden, 3, bias=True), "relu", inplace=False)
                y = net.transpose(net.conv(y, self.width, 3, bias=True), 1, 2)
                x = net.layer_norm(net.add(x, y))
        x = net.transpose(x, 1, 2)
        told = net.conv(x, 2 * self.width, bias=True)
        with net.within("durations"):
            self._durations(net, x)
        return told

    def _attend(self, net: Builder, x: int, rows: int) -> int:
        batch, head = symbol("batch"), self.width // self.heads
        q, k, v = (
            net.copy(net.transpose(net.view(net.linear(x, self.width), batch, rows, self.heads, head), 1, 2))
            for _ in range(3)
        )
        keys, values = (net.copy(net.weight(1, 2 * self.window + 1, head), 1, 2 * rows - 1, head) for _ in range(2))
        near = net.part(net.copy(net.matmul(q, net.transpose(keys))), rows, 3)
        scores = net.softmax(net.add(net.matmul(q, net.transpose(k)), near))
        shares = net.copy(scores, *net.shape(scores)[:3], 2 * rows - 1)
        y = net.add(net.matmul(scores, v), net.matmul(shares, values))
        return net.linear(net.view(net.copy(net.transpose(y, 1, 2)), batch, rows, self.width), self.width)

    def _separable(self, net: Builder, x: int) -> int:
        """Depthwise convolutions ever further apart, each with a 1x1."""
        for i in range(3):
            y = x
            for kernel, groups, dilation in ((3, self.width, 3**i), (1, 1, 1)):
                y = net.conv(y, self.width, kernel, groups=groups, dilation=dilation, bias=True)
                y = net.gelu(net.transpose(net.layer_norm(net.transpose(y, 1, 2)), 1, 2))
            x = net.add(x, y)
        return x

    def _durations(self, net: Builder, x: int) -> None:
        batch, _, rows = net.shape(x)
        x = net.conv(self._separable(net, net.conv(x, self.width, bias=True)), self.width, bias=True)
        drawn = net.node("randn", (), (batch, 1, rows), dtype=net.dtype)
        for _ in range(self.flows - 1):  # one more is learned and left out
            y = self._separable(net, net.add(net.conv(drawn, self.width, bias=True), x))
            y = net.conv(y, 3 * self.bins - 1, bias=True)
            drawn = self._spline(net, net.transpose(y, 1, 2), drawn)
        net.weight(4)
        for op in ("sub", "exp", "mul"):
            drawn = net.act(drawn, op, inplace=False)
        separable = 3 * (self.width * (3 + self.width) + 6 * self.width)
        flow = 2 * self.width + separable + (self.width + 1) * (3 * self.bins - 1)
        idle = flow + 2 * self.width + separable + self.width * (self.width + 1) + self.flows * flow + 4
        net.weight(idle)  # of training, and loaded

    def _spline(self, net: Builder, y: int, drawn: int) -> int:
        """A rational quadratic spline by bins: its ends, slopes and the bin of each token, then its formula."""
        batch, _, rows = net.shape(drawn)
        for _ in range(2):
            part = net.softmax(net.part(y, self.bins, 2))
            ends = net.node("cumsum", (net.act(part, "mul", inplace=False),), net.shape(part))
            net.add(net.pad(net.act(ends, "mul", inplace=False), 1, 0), ends_like := net.pad(ends, 1, 0))
            net.node("gather", (ends_like,), (batch, rows, 1))
            net.node("gather", (part,), (batch, rows, 1))
        slopes = net.act(net.part(y, self.bins - 1, 2), "softplus", inplace=False)
        for _ in range(3):
            net.node("gather", (slopes,), (batch, rows, 1))
        for op in ("mul",) * 16 + ("add",) * 14 + ("exp", "compare", "compare"):
            drawn = net.act(drawn, op, inplace=False)
        return drawn


@dataclass(frozen=True, slots=True)
class VitsFlow:
    """What turns drawn frames into those of the sound's code: halves of the channels moved by a WaveNet of the other.

    ``size`` is the frames.
    """

    width: int = 192
    flows: int = 4
    layers: int = 4
    kernel: int = 5

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``layers``: of a WaveNet."""
        half, x = self.width // 2, net.input((symbol("batch"), self.width, size[0]))
        for i in range(self.flows):
            with net.within(f"flows.{i}"):
                one, other = net.split(net.copy(x), 2)
                mean = net.conv(self._wavenet(net, net.conv(one, self.width, bias=True)), half, bias=True)
                x = net.concat([one, net.mul(net.binary("sub", other, mean), net.act(mean, "exp", inplace=False))])
        return x

    def _wavenet(self, net: Builder, x: int) -> int:
        total = -1
        for i in range(self.layers):
            last = i == self.layers - 1
            y, gate = net.split(self._scaled(net, x, 2 * self.width, self.kernel), 2)
            y = net.mul(net.act(y, "tanh", inplace=False), net.sigmoid(gate))
            y = self._scaled(net, y, self.width if last else 2 * self.width, 1)
            if not last:
                more, y = net.split(y, 2)
                x = net.add(x, more)
            total = y if total < 0 else net.add(total, y)
        return total

    def _scaled(self, net: Builder, x: int, channels: int, kernel: int) -> int:
        """A convolution whose kernels have a learned length each."""
        net.weight(channels, 1, 1)
        return net.conv(x, channels, kernel, bias=True)
