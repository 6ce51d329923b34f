"""Networks over long sequences: LSTM and GRU language models, S4D (Gu 2022), Mamba (Gu 2023) and vision nets of it,
and a Transformer whose layers attend to learned tokens (Wang 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size
from steelyard.workload.networks.values import symbol

__all__ = ["MambaNet", "RecurrentNet", "S4d", "TokenFormer"]


@dataclass(frozen=True, slots=True)
class RecurrentNet:
    """Words, layers of an LSTM, GRU or plain recurrence, and the next word of each; ``size`` is the tokens."""

    kind: str = "lstm"
    hidden: int = 1500
    layers: int = 2
    words: int = 10000
    embedded: int = 0
    both: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``embedded``: width of the word table."""
        x = net.embedding(net.tokens(size[0]), self.words, self.embedded or self.hidden)
        x = net.recurrent(x, self.hidden, self.layers, self.kind, both=self.both)
        return net.linear(x, self.words)


@dataclass(frozen=True, slots=True)
class S4d:
    """Diagonal state spaces as long convolutions: a Vandermonde product makes the kernel, transforms convolve.

    ``size`` is the length of the sequence.
    """

    depth: int = 6
    width: int = 512
    state: int = 64
    inputs: int = 1
    classes: int = 10

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``state``: numbers of a channel's state."""
        batch, length = symbol("batch"), size[0]
        x = net.transpose(net.linear(net.input((batch, length, self.inputs)), self.width), 1, 2)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.add(x, self._mix(net, x, length))
                x = net.transpose(net.layer_norm(net.transpose(x, 1, 2)), 1, 2)
        return net.linear(net.mean(x, (2,), keep=False), self.classes)

    def _mix(self, net: Builder, x: int, length: int) -> int:
        h, n = self.width, self.state // 2
        powers = net.node("exp", (net.weight(h, 2 * n, 1),), (h, 2 * n, length))
        kernel = net.view(net.matmul(net.weight(h, 1, 2 * n), powers), 1, h, length)
        padded = 2 * length
        spectra = [net.node("fourier", (v,), (*net.shape(v)[:-1], padded)) for v in (x, kernel)]
        y = net.node("fourier", (net.mul(*spectra),), net.shape(x))
        y = net.gelu(net.add(y, net.scale(x, 1, h, 1)))
        y, gate = net.split(net.conv(y, 2 * h, bias=True), 2)
        return net.mul(y, net.sigmoid(gate))


@dataclass(frozen=True, slots=True)
class MambaNet:
    """Selective state spaces: a projection, a short convolution, a scan over the sequence, a gate.

    ``size`` is the tokens; of images (``patch > 0``) the height and width, scanned from both ends.
    """

    depth: int = 24
    width: int = 192
    state: int = 16
    grown: int = 2
    kernel: int = 4
    patch: int = 0
    words: int = 0
    classes: int = 1000
    channels: bool = False
    """A second scan over the channels of every token (MambaMixer)."""

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``grown``: inner width over the outer."""
        batch = symbol("batch")
        if self.patch:
            x = net.conv(net.image(3, size), self.width, self.patch, self.patch, 0, bias=True)
            x = net.transpose(net.flatten(x, 2), 1, 2)
        elif self.words:
            x = net.embedding(net.tokens(size[0]), self.words, self.width)
        else:
            x = net.linear(net.input((batch, size[0], self.width)), self.width)
        ways = 2 if self.patch else 1
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.add(x, self._mix(net, net.rms_norm(x), self.width, ways))
                if self.channels:
                    length = net.size(x, 1)
                    y = net.transpose(net.copy(net.transpose(net.rms_norm(x), 1, 2)), 1, 2)
                    y = net.transpose(net.conv(net.transpose(y, 1, 2), self.width, bias=True), 1, 2)
                    x = net.add(x, net.mul(y, self._scan(net, y, self.width, length)))
        x = net.rms_norm(x)
        if self.words:
            return net.linear(x, self.words, bias=False)
        return net.linear(net.mean(x, (1,), keep=False), self.classes)

    def _mix(self, net: Builder, x: int, width: int, ways: int) -> int:
        inner = self.grown * width
        y, gate = net.split(net.linear(x, 2 * inner, bias=False), 2, 2)
        scanned = []
        for _ in range(ways):
            z = net.transpose(y, 1, 2)
            z = net.conv(z, inner, self.kernel, 1, (self.kernel - 1,), groups=inner, bias=True)
            z = net.act(net.transpose(net.part(z, net.shape(x)[1], 2), 1, 2), "silu", inplace=False)
            scanned.append(self._scan(net, z, inner, net.shape(x)[1]))
        y = scanned[0] if ways == 1 else net.add(*scanned)
        return net.linear(net.mul(y, net.act(gate, "silu", inplace=False)), width, bias=False)

    def _scan(self, net: Builder, z: int, inner: int, length: Size) -> int:
        """Steps, inputs and outputs of the state from the token, then the scan itself as one kernel."""
        rank = max(1, inner // (16 * self.grown))
        chosen = net.linear(z, rank + 2 * self.state, bias=False)
        low, b, c = net.split(chosen, (rank, self.state, self.state), 2)
        step = net.linear(low, inner)
        read = (z, step, net.weight(inner, self.state), b, c, net.weight(inner))
        out = net.value((net.shape(z)[0], length, inner))
        return net.add_node("selective_scan", read, (out,), {"state": self.state})


@dataclass(frozen=True, slots=True)
class TokenFormer:
    """A causal Transformer whose linear layers are attention of each token to ``pairs`` learned keys and values.

    Feed-forwards have four times as many; a larger model has more pairs, and keeps those of a smaller one. ``size`` is
    the tokens.
    """

    pairs: int = 576
    depth: int = 12
    width: int = 768
    heads: int = 12
    words: int = 50304

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``pairs``: of each layer's projection."""
        batch, length, head = symbol("batch"), size[0], self.width // self.heads
        given, table = net.tokens(length), net.weight(self.words, self.width)
        x = net.node("gather", (table, given), (batch, length, self.width), dtype=net.dtype)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                y = net.layer_norm(x, affine=False)
                q, k, v = (
                    net.transpose(net.view(self._attend(net, y, self.pairs), batch, length, self.heads, head), 1, 2)
                    for _ in range(3)
                )
                y = net.copy(net.transpose(net.attention(q, k, v, causal=True), 1, 2))
                x = net.add(x, self._attend(net, net.view(y, batch, length, self.width), self.pairs))
                x = net.add(x, self._attend(net, net.layer_norm(x, affine=False), 4 * self.pairs))
        return net.node("linear", (net.layer_norm(x, affine=False), table), (batch, length, self.words))

    def _attend(self, net: Builder, x: int, pairs: int) -> int:
        """Scores with learned keys, scaled to one length and passed through an error unit; sums of learned values."""
        scores = net.linear(x, pairs, bias=False)
        length = net.node("norm", (scores,), (*net.shape(scores)[:-1], 1))
        return net.linear(net.gelu(net.binary("div", scores, length)), self.width, bias=False)
