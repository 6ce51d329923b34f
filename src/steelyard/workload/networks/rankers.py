"""Rankers and recommenders: BERT that reads question and passage, ColBERT (Khattab 2020), DLRM (Naumov 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import times
from steelyard.workload.networks.values import symbol
from steelyard.workload.networks.vit import TextEncoder

__all__ = ["Dlrm", "LateInteraction"]

#: Rows of the 26 tables of Criteo's terabyte, hashed to 40 million at most, as MLPerf's DLRM has them.
_CRITEO = (
    *(40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10),
    *(2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36),
)


@dataclass(frozen=True, slots=True)
class LateInteraction:
    """The question is encoded alone; its vectors meet those of passages, which are stored.

    ``size`` is the tokens of a question. With ``tokens = 1`` a passage is one vector (BERT-dot).
    """

    passages: int = 1000
    tokens: int = 180
    joint: int = 128
    depth: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``joint``: width of stored vectors."""
        encoder = TextEncoder(
            depth=self.depth, width=self.width, heads=self.heads, hidden=self.hidden, segments=0, pooler=False
        )
        batch = symbol("batch")
        x = net.linear(encoder.build(net, size), self.joint, bias=False)
        if self.tokens == 1:
            x = net.node("gather", (x,), (batch, 1, self.joint))
        stored = net.input((batch, self.passages * self.tokens, self.joint), "f16")
        scores = net.matmul(x, net.transpose(stored))
        rows = net.shape(scores)[1]
        best = net.node(
            "amax", (net.view(scores, batch, rows, self.passages, self.tokens),), (batch, rows, self.passages)
        )
        return net.node("sum", (best,), (batch, self.passages))


@dataclass(frozen=True, slots=True)
class Dlrm:
    """Dense features through layers, sparse ones as sums of rows of tables, products of them all, layers.

    ``cross = 0``: products of each pair; else so many cross layers of a low rank (DLRM of MLPerf 3 and later).
    """

    dense: int = 13
    bottom: tuple[int, ...] = (512, 256, 128)
    top: tuple[int, ...] = (1024, 1024, 512, 256, 1)
    rows: tuple[int, ...] = _CRITEO
    hots: tuple[int, ...] = (1,)
    cross: int = 0
    rank: int = 512

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`.

        ``rows``: of every table; ``hots``: rows summed for each, one number for all or one for each table.
        """
        if len(self.hots) not in (1, len(self.rows)):
            raise InputError(f"expected 1 or {len(self.rows)} numbers, got {len(self.hots)}", field="set.hots")
        batch, width = symbol("batch"), self.bottom[-1]
        x = self._layers(net, net.input((batch, self.dense)), self.bottom, last=True)
        hots = self.hots * len(self.rows) if len(self.hots) == 1 else self.hots
        bags = [
            net.embedding_bag(net.input((times(batch, hot),), "i64"), rows, width, hot)
            for rows, hot in zip(self.rows, hots, strict=True)
        ]
        count = 1 + len(bags)
        joined = net.concat([x, *bags])
        if self.cross:
            y = joined
            for _ in range(self.cross):
                low = net.linear(y, self.rank, bias=False)
                y = net.add(net.mul(joined, net.linear(low, count * width)), y)
        else:
            each = net.view(joined, batch, count, width)
            pairs = net.matmul(each, net.transpose(each))
            chosen = net.node("gather", (pairs,), (batch, count * (count - 1) // 2))
            y = net.concat([x, chosen])
        return net.sigmoid(self._layers(net, y, self.top))

    def _layers(self, net: Builder, x: int, widths: tuple[int, ...], last: bool = False) -> int:
        for i, width in enumerate(widths):
            x = net.linear(x, width)
            x = net.relu(x) if last or i < len(widths) - 1 else x
        return x
