"""What runs beside the blocks of every layer alike: residual streams, low-rank branches, embeddings of each layer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.workload.shapes import Streams
from steelyard.workload.structure.pieces import Piece

__all__ = ["JOINS", "Side", "read_side"]

#: Hyper-connections: what mixes several residual streams around each block.
_HYPER = re.compile(r"^(attn|ffn|mlp)_?hc\.(fn|base|scale)$|^hc_(attn|ffn|mlp)_(fn|base|scale)$")
_ALTUP, _LAUREL = re.compile(r"^altup[._]"), re.compile(r"^laurel[._]")
_INPUTS = re.compile(r"^(per_layer_input_gate|per_layer_projection|post_per_layer_input_norm|inp_gate|proj|post_norm)$")
#: Outside the layers: what makes one of several residual streams or several of one, and the tables of each layer.
JOINS = re.compile(
    r"(^|[._])hc_head([._]|$)|(^|\.)hc_(fn|base|scale)$|(^|\.)altup_(unembed_)?proj\w*(\.[0-9])?$"
    r"|(^|\.)(embed_tokens_per_layer|per_layer_token_embd|per_layer_(model_)?proj(ection|_norm|ection_norm)?)$"
)


@dataclass(frozen=True, slots=True)
class Side:
    """Of one layer; what is not there is 0 or None."""

    streams: Streams | None = None
    branch: int = 0
    """Rank of a branch beside the layer."""
    inputs: int = 0
    """Width of an embedding of its own."""


def read_side(pieces: Sequence[Piece], hidden: int) -> tuple[Side, dict[str, str]]:
    """What runs beside the blocks of a layer, and the pieces it explains by their names.

    Args:
        pieces: all of one layer.
        hidden: width between layers.
    """
    streams, placed = _hyper(pieces, hidden)
    found = {p.path.rpartition(".")[2]: p for p in pieces if _ALTUP.search(p.path)}
    predict, router = found.get("prediction_coefs"), found.get("modality_router")
    if predict is not None and router is not None and predict.elements == math.isqrt(predict.elements) ** 2:
        count, rest = divmod(router.elements, hidden)
        if not rest and predict.elements == count**3 and count > 1:
            streams = Streams(count, "altup")
            placed |= {p.name: "residual streams" for p in found.values()}
    low = [p for p in pieces if _LAUREL.search(p.path)]
    ranks = {p.elements // hidden for p in low if len(p.shape) == 2 and p.elements % hidden == 0}
    branch = ranks.pop() if len(ranks) == 1 else 0
    placed |= {p.name: "low-rank branch" for p in low if branch}
    inner = {p.path: p for p in pieces if _INPUTS.search(p.path)}
    widths = {p.elements // hidden for p in inner.values() if len(p.shape) == 2 and p.elements % hidden == 0}
    inputs = widths.pop() if len(widths) == 1 and len(inner) == 3 else 0
    placed |= {p.name: "embeddings of each layer" for p in inner.values() if inputs}
    return Side(streams, branch, inputs), placed


def _hyper(pieces: Sequence[Piece], hidden: int) -> tuple[Streams | None, dict[str, str]]:
    """The residual streams that two equal matrices mix, one around each block."""
    mine = [p for p in pieces if _HYPER.search(p.path)]
    mixes = [p for p in mine if len(p.shape) == 2]
    if len(mixes) != 2 or mixes[0].shape != mixes[1].shape or mixes[0].shape[1] % hidden:
        return None, {}
    streams = Streams(mixes[0].shape[1] // hidden, "hyper", mixes=mixes[0].shape[0])
    return streams, {p.name: "residual streams" for p in mine}
