"""Networks layer by layer: sizes are inferred, nodes are those that a trace of eager PyTorch has.

``net = Builder("small"); x = net.image(3, 224); x = net.relu(net.norm(net.conv(x, 64, 7, stride=2)))`` and so on;
``net.graph(x)`` is the graph. A layer takes and gives numbers of tensors. Layers make the nodes that PyTorch's modules
launch: views where it views, copies where it copies, activations in place where networks usually run them so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steelyard.errors import InputError
from steelyard.workload.networks.sizes import Size, divided, plus, product, slid, times
from steelyard.workload.networks.values import Tensors

__all__ = ["Builder"]

#: A number for all axes, or one for each.
_Each = int | Sequence[int]


def _each(value: _Each, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


class Builder(Tensors):
    """A network layer by layer; what a layer is given and gives are numbers of tensors."""

    # --- products

    def conv(
        self,
        x: int,
        channels: int,
        kernel: _Each = 1,
        stride: _Each = 1,
        pad: _Each | None = None,
        *,
        groups: int = 1,
        dilation: _Each = 1,
        bias: bool = False,
    ) -> int:
        """A convolution over as many axes as ``x`` has after the channels.

        Args:
            x: ``(batch, channels, ...)``.
            channels: of the output.
            kernel: points of the window, by axis.
            stride: its steps.
            pad: elements laid around; none: what keeps the size at stride 1.
            groups: channels are cut into so many groups; ``groups == channels`` is a depthwise one.
            dilation: distance of the window's points.
            bias: whether it adds a learned number by channel.

        Raises:
            InputError: groups do not divide the channels, or the window is larger than the input.
        """
        shape = self.shape(x)
        rank = len(shape) - 2
        k, s, d = _each(kernel, rank), _each(stride, rank), _each(dilation, rank)
        whole = [j * (i - 1) for i, j in zip(k, d, strict=True)] if pad is None else [2 * p for p in _each(pad, rank)]
        p = tuple(w // 2 for w in whole)  # of a window of even sides the odd row lies at the end
        inputs = self._grouped(self.channels(x), channels, groups)
        weight = self.weight(channels, inputs, *k)
        read = [x, weight, *([self.weight(channels)] if bias else [])]
        sides = [slid(shape[2 + i], k[i], s[i], whole[i], d[i]) for i in range(rank)]
        out = self.value((shape[0], channels, *sides), dtype=self.tensors[x].dtype)
        return self.add_node("conv", read, (out,), _window(k, s, p, d, groups))

    def conv_with(self, x: int, kernels: int, channels: int, kernel: int, stride: int = 1) -> int:
        """A convolution whose kernels were made on the way, each image's own: ``(batch * channels, inputs, ...)``."""
        shape = self.shape(x)
        rank = len(shape) - 2
        k, s, p = (kernel,) * rank, (stride,) * rank, ((kernel - 1) // 2,) * rank
        sides = [slid(shape[2 + i], k[i], s[i], 2 * p[i], 1) for i in range(rank)]
        out = self.value((shape[0], channels, *sides), dtype=self.tensors[x].dtype)
        return self.add_node("conv", (x, kernels), (out,), _window(k, s, p, (1,) * rank, 1))

    def deconv(
        self, x: int, channels: int, kernel: _Each, stride: _Each, pad: _Each = 0, *, groups: int = 1, extra: int = 0
    ) -> int:
        """A transposed convolution with a bias; ``extra`` rows are laid at the end (PyTorch's output padding)."""
        shape = self.shape(x)
        rank = len(shape) - 2
        k, s, p = _each(kernel, rank), _each(stride, rank), _each(pad, rank)
        outputs = self._grouped(channels, self.channels(x), groups)
        read = [x, self.weight(self.channels(x), outputs, *k), self.weight(channels)]
        sides = [plus(times(shape[2 + i], s[i]), k[i] - s[i] - 2 * p[i] + extra) for i in range(rank)]
        out = self.value((shape[0], channels, *sides), dtype=self.tensors[x].dtype)
        return self.add_node("conv", read, (out,), {**_window(k, s, p, (1,) * rank, groups), "transposed": True})

    def _grouped(self, inputs: int, outputs: int, groups: int) -> int:
        if outputs < 1:
            raise InputError(f"expected at least one channel, got {outputs}", field="channels")
        if groups < 1 or inputs % groups or outputs % groups:
            raise InputError(f"{inputs} and {outputs} channels cannot be cut into {groups} groups", field="groups")
        return inputs // groups

    def linear(self, x: int, features: Size, *, bias: bool = True) -> int:
        """A linear layer over the last axis."""
        *rows, width = self.shape(x)
        read = [x, self.weight(features, width), *([self.weight(features)] if bias else [])]
        return self.node("linear", read, (*rows, features))

    def matmul(self, a: int, b: int) -> int:
        """A product of matrices in the last two axes; axes before are those of the first."""
        *rows, depth = self.shape(a)
        if self.shape(b)[-2] != depth:
            raise InputError(f"cannot multiply a depth of {depth} with {self.shape(b)[-2]}", field="size")
        return self.node("matmul", (a, b), (*rows, self.shape(b)[-1]))

    def attention(self, q: int, k: int, v: int, *, mask: int | None = None, causal: bool = False) -> int:
        """Scaled products of queries with keys and of their softmax with values, as one kernel.

        ``(..., rows, width)`` each; the mask is a tensor that is added to the scores.
        """
        read = [q, k, v, *([mask] if mask is not None else [])]
        out = self.value((*self.shape(q)[:-1], self.shape(v)[-1]), dtype=self.tensors[q].dtype)
        return self.add_node("attention", read, (out,), {"causal": True} if causal else {})

    def self_attention(self, x: int, heads: int, *, bias: bool = True, causal: bool = False) -> int:
        """Attention of ``(batch, rows, width)`` over its own rows: one projection to queries, keys and values, heads
        attended by one kernel, the projection of their joined answers."""
        batch, rows, width = self.shape(x)
        head = divided(width, heads)
        qkv = self.linear(x, times(width, 3), bias=bias)
        qkv = self.permute(self.view(qkv, batch, rows, 3, heads, head), 2, 0, 3, 1, 4)
        q, k, v = self.unbind(qkv)
        y = self.transpose(self.attention(q, k, v, causal=causal), 1, 2)
        return self.linear(self.view(self.copy(y), batch, rows, width), width)

    def mlp(self, x: int, hidden: Size, act: str = "gelu") -> int:
        """Two linear layers with an activation between."""
        width = self.shape(x)[-1]
        return self.linear(self.act(self.linear(x, hidden), act, inplace=False), width)

    def conv_norm(
        self,
        x: int,
        channels: int,
        kernel: _Each = 1,
        stride: _Each = 1,
        pad: _Each | None = None,
        *,
        groups: int = 1,
        act: str = "relu",
    ) -> int:
        """A convolution as :meth:`conv` makes it, its batch normalisation and an activation (``""``: none)."""
        y = self.norm(self.conv(x, channels, kernel, stride, pad, groups=groups))
        return self.act(y, act) if act else y

    def classify(self, x: int, classes: int) -> int:
        """The mean over an image and a linear layer."""
        return self.linear(self.flatten(self.mean(x)), classes)

    def squeeze(self, x: int, hidden: int, *, act: str = "relu", gate: str = "sigmoid") -> int:
        """Channels scaled by a gate that sees the mean of every channel (squeeze and excitation)."""
        y = self.act(self.conv(self.mean(x), hidden, bias=True), act)
        return self.mul(x, self.act(self.conv(y, self.channels(x), bias=True), gate, inplace=False))

    # --- normalisations, softmax and reductions

    def norm(self, x: int) -> int:
        """A batch normalisation by channel with its running statistics."""
        c = self.channels(x)
        read = (x, self.weight(c), self.weight(c), self.buffer(c), self.buffer(c))
        made = (self.value(self.shape(x), dtype=self.tensors[x].dtype), self.value((c,)), self.value((c,)))
        return self.add_node("batch_norm", read, made, {})

    def layer_norm(self, x: int, *, axes: int = 1, affine: bool = True) -> int:
        """A normalisation over the last axes, with learned scale and offset."""
        shape = self.shape(x)
        read = [x, *(self.weight(*shape[-axes:]) for _ in range(2 if affine else 0))]
        rows = (*shape[:-axes], *(1 for _ in range(axes)))
        made = (self.value(shape, dtype=self.tensors[x].dtype), self.value(rows), self.value(rows))
        return self.add_node("layer_norm", read, made, {})

    def group_norm(self, x: int, groups: int = 32) -> int:
        """A normalisation over groups of channels."""
        shape, c = self.shape(x), self.channels(x)
        self._grouped(c, c, groups)
        made = (self.value(shape, dtype=self.tensors[x].dtype), *(self.value((shape[0], groups)) for _ in range(2)))
        return self.add_node("group_norm", (x, self.weight(c), self.weight(c)), made, {})

    def rms_norm(self, x: int) -> int:
        """A root mean square normalisation over the last axis."""
        return self.node("rms_norm", (x, self.weight(self.shape(x)[-1])), self.shape(x))

    def softmax(self, x: int) -> int:
        """A softmax over the last axis."""
        return self.node("softmax", (x,), self.shape(x))

    def mean(self, x: int, axes: Sequence[int] = (2, 3), *, keep: bool = True) -> int:
        """The mean over axes."""
        shape = self.shape(x)
        gone = {a % len(shape) for a in axes}
        return self.node("mean", (x,), [1 if i in gone else s for i, s in enumerate(shape) if keep or i not in gone])

    # --- pools and sizes

    def max_pool(self, x: int, kernel: _Each, stride: _Each, pad: _Each = 0, *, up: bool = False) -> int:
        """The largest of each window; two-dimensional ones note its place."""
        shape = self._pooled(x, kernel, stride, pad, up)
        places = [self.value(shape, dtype="i64")]
        out = self.value(shape, dtype=self.tensors[x].dtype)
        return self.add_node("max_pool", (x,), (out, *places), {"kernel": list(_each(kernel, len(shape) - 2))})

    def avg_pool(self, x: int, kernel: _Each, stride: _Each, pad: _Each = 0, *, up: bool = False) -> int:
        """The mean of each window."""
        shape = self._pooled(x, kernel, stride, pad, up)
        out = self.value(shape, dtype=self.tensors[x].dtype)
        return self.add_node("avg_pool", (x,), (out,), {"kernel": list(_each(kernel, len(shape) - 2))})

    def _pooled(self, x: int, kernel: _Each, stride: _Each, pad: _Each, up: bool) -> tuple[Size, ...]:
        shape = self.shape(x)
        rank = len(shape) - 2
        k, s, p = _each(kernel, rank), _each(stride, rank), _each(pad, rank)
        return (*shape[:2], *(slid(shape[2 + i], k[i], s[i], 2 * p[i], 1, up=up) for i in range(rank)))

    def pooled_to(self, x: int, *sides: int) -> int:
        """An average pool that gives these sides (PyTorch's adaptive pool)."""
        shape = self.shape(x)
        if all(side == 1 for side in sides):
            return self.mean(x, range(2, len(shape)))
        kernel = [-(-self.size(x, 2 + i) // side) for i, side in enumerate(sides)]
        out = self.value((*shape[:2], *sides), dtype=self.tensors[x].dtype)
        return self.add_node("avg_pool", (x,), (out,), {"kernel": kernel})

    def resize(self, x: int, *sides: Size, mode: str = "nearest") -> int:
        """An image or sequence at other sides; ``mode``: ``nearest``, ``linear``, ``bilinear``, ``bicubic``."""
        out = self.value((*self.shape(x)[:2], *sides), dtype=self.tensors[x].dtype)
        return self.add_node("resize", (x,), (out,), {"mode": f"{mode}{len(sides)}d"})

    def upsample(self, x: int, factor: int = 2) -> int:
        """Every side times a factor."""
        return self.resize(x, *(times(s, factor) for s in self.shape(x)[2:]))

    def pixel_shuffle(self, x: int, factor: int) -> int:
        """Channels laid out as pixels: sides times the factor."""
        batch, c, height, width = self.shape(x)
        return self.copy(x, batch, divided(c, factor * factor), times(height, factor), times(width, factor))

    def channel_shuffle(self, x: int, groups: int) -> int:
        """Channels of all groups mixed: the first of each, the second of each, and so on."""
        batch, c, height, width = self.shape(x)
        y = self.view(x, batch, groups, -1, height, width)
        return self.view(self.copy(self.transpose(y, 1, 2)), batch, c, height, width)

    # --- gathers and recurrences

    def embedding(self, tokens: int, words: int, width: int) -> int:
        """Rows of a table by their numbers."""
        return self.node("gather", (self.weight(words, width), tokens), (*self.shape(tokens), width), dtype=self.dtype)

    def embedding_bag(self, rows: int, words: int, width: int, per_bag: int = 1) -> int:
        """Sums of ``per_bag`` rows of a table, by their numbers: ``(bags * per_bag,)`` or ``(bags, per_bag)``."""
        total = product(self.shape(rows))
        out = self.value((divided(total, per_bag), width))
        facts: dict[str, Any] = {}
        if isinstance(total, int):
            facts["visited"] = total * width
        elif per_bag > 1:
            facts["rows_per_bag"] = per_bag
        return self.add_node("gather", (self.weight(words, width), rows), (out,), facts)

    def recurrent(self, x: int, hidden: int, layers: int = 1, kind: str = "lstm", *, both: bool = False) -> int:
        """Layers of an LSTM, GRU or plain recurrence over ``(batch, frames, width)``.

        Args:
            x: its input.
            hidden: width of its state.
            layers: one above the other.
            kind: ``lstm``, ``gru`` or ``rnn``.
            both: a second one runs from the end to the start, and their answers are joined.
        """
        gates = {"lstm": 4, "gru": 3, "rnn": 1}.get(kind)
        if gates is None:
            raise InputError(f"expected lstm, gru or rnn, got {kind[:40]!r}", field="kind")
        directions = 2 if both else 1
        *rows, width = self.shape(x)
        weights: list[int] = []
        for _ in range(layers * directions):
            weights += [self.weight(gates * hidden, width if len(weights) < 4 * directions else hidden * directions)]
            weights += [self.weight(gates * hidden, hidden), self.weight(gates * hidden), self.weight(gates * hidden)]
        facts = {"layers": layers, "hidden": hidden, "gates": gates, "directions": directions}
        state = (layers * directions, rows[0], hidden)
        made = [self.value((*rows, hidden * directions)), *(self.value(state) for _ in range(2 if gates == 4 else 1))]
        return self.add_node("recurrent", (x, *weights), made, facts)


def _window(
    kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int], groups: int
) -> dict[str, Any]:
    return {
        "kernel": list(kernel),
        "stride": list(stride),
        "padding": list(pad),
        "dilation": list(dilation),
        "groups": groups,
    }
