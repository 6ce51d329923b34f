"""A decoder of a type nobody described, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steelyard.errors import InputError, Problem, printable, raise_all, show, suggest
from steelyard.workload.families._base import MAX_LAYERS, MAX_SIZE, Fields, group_layers
from steelyard.workload.families._native import published
from steelyard.workload.families._read import FAMILIES, language_config
from steelyard.workload.ingest.safetensors import MAX_TENSORS, TensorInfo
from steelyard.workload.protocol import Workload, restated
from steelyard.workload.shapes import Layer, LayerInputs
from steelyard.workload.structure.beside import described_towers
from steelyard.workload.structure.found import LIMIT, UNKNOWN, Row, Structure
from steelyard.workload.structure.keys import DEPTH, HIDDEN, LENGTH, Keys
from steelyard.workload.structure.layers import Found, in_words, read_layer
from steelyard.workload.structure.names import role_of
from steelyard.workload.structure.pieces import Group, Piece, Table, gather
from steelyard.workload.structure.side import JOINS, Side
from steelyard.workload.transformer import Transformer

__all__ = ["read_structure"]

_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings?|tok_embeddings|token_embd|embed_in|embeddings?|embed|tok_embed\w*"
    r"|word_embed\w*|token_emb\w*|input_embeddings?|shared)$"
)
_HEAD = re.compile(r"(^|\.)(lm_head|output|embed_out|head|output_projection|output_layer|unembed\w*|lm_head\.\w+)$")
_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|pos_emb\w*|position_embd)$")
_NUMBERED = re.compile(r"(\w*(?:attn|attention|mlps?|norm)\w*)\.([0-9])($|\..*)")
#: What layers have that guess the token after the next one.
_GUESSES = re.compile(r"eh_proj|enorm|hnorm|shared_head")
_NORM = re.compile(r"norm|(^|\.)ln_?\w*$", re.I)
_ADAPTER = re.compile(r"lora_[ab]|lora_(up|down)|ia3_l", re.I)
_TOWER, _NEXT, _BESIDE = "vision or audio tower", "multi-token prediction", "beside the layers"
_COPY = "head, a copy of the embeddings"
#: Tables of a config that describe blocks of the language model.
_PARTS_OF_CONFIGS = ("attn_config", "ffn_config", "moe_config", "moe")
#: What the language model is called where it is a part of a model.
_LANGUAGE = ("language_model", "text_model", "llm", "thinker", "text_decoder")
_PARTS = {_TOWER: "kept in memory", _NEXT: "not loaded: guesses are not asked for"}


def read_structure(
    tensors: Sequence[TensorInfo], config: Mapping[str, Any], *, name: str = "", asked: bool = False
) -> tuple[Workload, Structure]:
    """The model that some tensors are, and what each of them was read as.

    Args:
        tensors: of all files, shapes as PyTorch has them (outputs first).
        config: what is known beside them; may be empty. Numbers that the shapes tell are not taken from it.
        name: what to call the model in results.
        asked: answer whatever share of the weights is not understood.

    Raises:
        InputError: the tensors are no language model, or something needed stands neither in them nor in the config;
            or more of the weights than :data:`~steelyard.workload.structure.found.LIMIT` is not understood.
    """
    inner = language_config(config)[0] if config else {}
    for part in map(inner.get, _PARTS_OF_CONFIGS):
        inner = {**part, **inner} if isinstance(part, Mapping) else inner
    _check(tensors)
    quant = inner.get("quantization_config") or inner.get("quantization") or {}
    reader = _Reader(gather(tensors, quant if isinstance(quant, Mapping) else {}), inner, asked)
    model = reader.model()
    if reader.tower:
        _, elements, size, names = reader.rows[_TOWER]
        model = replace(model, towers=described_towers(config, model.hidden, elements, size, names))
    found = reader.structure(model)
    if found.unknown > LIMIT and not asked:
        missed = next(row for row in found.rows if row.part == UNKNOWN)
        message = (
            f"{found.unknown:.0%} of its weights are not understood ({', '.join(missed.examples)}); "
            "--generic prices them as plain products"
        )
        raise InputError(f"{_called(inner)}: {message}", field="tensors")
    stored = published(inner, model) if inner else {}
    notes = (*_remarks(found, inner), *model.notes, *stored.get("notes", ()))
    return restated(model, name=name or model.model_type, **{**stored, "notes": notes}), found


def _called(config: Mapping[str, Any]) -> str:
    kind = config.get("model_type") or config.get("general.architecture")
    if not kind:
        return "no config names its type"
    if kind in FAMILIES.names():
        return f"layers of {show(kind)} differ in a way its family does not describe"
    near = suggest(str(kind), FAMILIES.names(), 1)
    return f"model type {show(kind)} is not known{f' (the nearest is {near[0]})' if near else ''}"


def _remarks(found: Structure, config: Mapping[str, Any]) -> tuple[str, ...]:
    whole = found.parameters or 1
    shown = (row for row in found.rows if row.parameters >= 0.001 * whole)
    parts = ", ".join(f"{row.part} {row.parameters / whole:.1%}" for row in shown)
    lines: tuple[str, ...] = (
        f"{_called(config)}; read from its {sum(r.tensors for r in found.rows):,} tensors: {parts}",
    )
    missed = next((row for row in found.rows if row.part == UNKNOWN), None)
    if missed is not None and found.unknown >= 5e-5:
        lines += (
            f"NOTE: {found.unknown:.2%} of the weights are not understood ({', '.join(missed.examples)}); "
            "kept in memory, and priced as plain products where they stand in a layer",
        )
    return lines


def _check(tensors: Sequence[TensorInfo]) -> None:
    if len(tensors) > MAX_TENSORS:
        raise InputError(f"{len(tensors):,} tensors; at most {MAX_TENSORS:,} are accepted", field="tensors")
    for tensor in tensors:
        if len(tensor.shape) > 8 or any(extent > MAX_SIZE for extent in tensor.shape):
            raise InputError(f"expected at most 8 sizes up to {MAX_SIZE:,}", field=printable(tensor.name)[:80])
        if _ADAPTER.search(tensor.name):
            shown = printable(tensor.name)[:60]
            raise InputError(
                f"the files hold an adapter ({shown}), not a model; name the model it is for", field="tensors"
            )


def _sublayers(group: Group) -> list[list[tuple[tuple[str, str], Piece]]]:
    """The pieces of a layer; of one whose blocks are numbered (``self_attn.0``, ``self_attn.1``) those of each."""
    parts: dict[str, list[tuple[tuple[str, str], Piece]]] = {}
    for key in sorted(group.pieces):
        piece = group.pieces[key]
        found = _NUMBERED.match(piece.path)
        own = piece if found is None else replace(piece, path=f"{found[1]}{found[3]}")
        parts.setdefault(found[2] if found else "", []).append((key, own))
    if len(parts) < 2 or any(len(p) < 2 for p in parts.values()):
        return [[(key, group.pieces[key]) for key in sorted(group.pieces)]]
    common = parts.pop("", [])
    first, *others = [parts[number] for number in sorted(parts)]
    return [common + first, *others]


class _Reader:
    """The pieces of a model as they are placed."""

    def __init__(self, table: Table, config: Mapping[str, Any], asked: bool) -> None:
        self.table, self.config, self.asked = table, config, asked
        self.fields = Fields(config)
        self.keys = Keys(config, fields=self.fields)
        #: part -> tensors, parameters, bytes, examples.
        self.rows: dict[str, tuple[int, int, int, dict[str, None]]] = {}
        self.words: dict[str, dict[str, int]] = {}
        self.placed: set[tuple[str, str]] = set()
        self.extra = 0
        self.tower = 0
        self.layers: list[Layer] = []
        self.layer_bytes: list[int] = []
        self.sides: list[Side] = []
        self.root = ""
        self.blind: dict[str, int] = {}

    def model(self) -> Transformer:
        """Place every piece."""
        outside = self.table.outside
        table = self._largest(_EMBEDDING, outside)
        if table is None:
            first = next(iter(outside.pieces.values()), None)
            seen = f" (there is {printable(first.name)[:60]!r})" if first else ""
            told = "" if self.config else "; a config.json beside them says more"
            message = f"no table of token embeddings among {self.table.tensors:,} of them{seen}{told}"
            raise InputError(message, field="tensors")
        stated = self.keys.number(*HIDDEN)
        narrow, vocab = min(table.shape), max(table.shape)
        if stated in table.shape:
            narrow, vocab = stated, table.elements // stated
        elif not any(len(p.shape) == 1 and p.elements == stated for p in outside.pieces.values()):
            stated = 0  # nothing outside the layers has that width
        hidden = stated or narrow
        self._place("token embeddings", table, outside)
        tied = self._head(table, hidden)
        layers = self._layers(hidden)
        norms = [
            p
            for p in outside.pieces.values()
            if p.elements == hidden and _NORM.search(p.path) and self._free(p) and "embed" not in p.path
        ]
        final = [p for p in norms if p.path == norms[0].path]
        for piece in final:
            self._place("norms", piece, outside)
        positions = self._largest(_POSITIONS, outside)
        if positions is not None and (len(positions.shape) != 2 or hidden not in positions.shape):
            positions = None
        if positions is not None:
            self._place("positions", positions, outside)
        beside = self._beside(hidden)
        self._rest(table)
        for part, group, loaded in (
            (_TOWER, self.table.tower, True),
            (_NEXT, self.table.ahead, False),
        ):
            for key, piece in group.pieces.items():
                self._count(part, piece, group.bytes[key])
                self.tower += piece.elements if loaded else 0
        self._told()
        raise_all(self.fields.problems)
        return Transformer(
            name="",
            model_type=str(self.config.get("model_type") or ""),
            hidden=hidden,
            vocab=vocab,
            layers=group_layers(layers),
            tied=tied,
            positions=positions.elements // hidden if positions is not None else 0,
            embedding_dim=narrow if narrow != hidden else 0,
            final_norm=bool(final),
            norm_bias=any(p.ending == "bias" for p in final),
            max_context=self.keys.number(*LENGTH),
            **beside,
            extra_parameters=self.extra,
            notes=tuple(dict.fromkeys(self.fields.notes)),
        )

    def _largest(self, words: re.Pattern[str], group: Group) -> Piece | None:
        found = [
            p
            for p in group.pieces.values()
            if words.search(p.path) and len(p.shape) == 2 and p.elements and self._free(p)
        ]
        return max(found, key=lambda p: p.elements, default=None)

    def _free(self, piece: Piece) -> bool:
        return (piece.path, piece.ending) not in self.placed

    def _place(self, part: str, piece: Piece, group: Group) -> None:
        """Count a piece that stands outside the layers."""
        self.placed.add((piece.path, piece.ending))
        self._count(part, piece, group.bytes[piece.path, piece.ending])

    def _count(self, part: str, piece: Piece, size: int, where: str = "") -> None:
        tensors, parameters, total, names = self.rows.get(part, (0, 0, 0, {}))
        names.setdefault(f"{where}{re.sub(r'[0-9]+(?=[.]|$)', '*', piece.name)}", None)
        self.rows[part] = (tensors + piece.copies, parameters + piece.elements, total + size, names)

    def _beside(self, hidden: int) -> dict[str, Any]:
        """What runs beside the blocks of all layers alike, with what makes and joins it outside them."""
        first = self.sides[0] if self.sides else Side()
        if any(side != first for side in self.sides):
            self.fields.notes.append("NOTE: what runs beside the blocks of some layers is not counted")
            return {}
        rows = 0
        for piece in self.table.outside.pieces.values():
            if first != Side() and JOINS.search(piece.path) and self._free(piece):
                table, rest = divmod(piece.elements, len(self.sides) * max(1, first.inputs))
                if first.inputs and not rest and len(piece.shape) == 2 and table > hidden:
                    rows = table
                self._place(_BESIDE, piece, self.table.outside)
        found: dict[str, Any] = {"streams": first.streams, "laurel_rank": first.branch}
        return found | ({"layer_inputs": LayerInputs(rows, first.inputs)} if rows else {})

    def _head(self, table: Piece, hidden: int) -> bool:
        """Whether the embedding is the head too; places a head of its own."""
        outside = self.table.outside
        head = self._largest(_HEAD, outside)
        if head is None or head.elements % hidden or head.elements // hidden < table.elements // hidden // 2:
            return True
        tied = self.keys.flag("tie_word_embeddings") is True and head.elements == table.elements
        self._place(_COPY if tied else "head", head, outside)
        return tied

    def _rest(self, table: Piece) -> None:
        """What stands outside the layers and is nothing that is known: in memory, computed with nothing."""
        for piece in list(self.table.outside.pieces.values()):
            if self._free(piece):
                part = "norms" if len(piece.shape) <= 1 and _NORM.search(piece.path) else UNKNOWN
                part = part if piece.path.startswith(self.root) else _TOWER
                self._place(part, piece, self.table.outside)
                if part == _TOWER:
                    self.tower += piece.elements
                else:
                    self.extra += piece.elements

    def _layers(self, hidden: int) -> list[Layer]:
        stacks = self.table.stacks
        if any("encoder" in s.split(".") for s in stacks) and any("decoder" in s.split(".") for s in stacks):
            raise InputError(
                "the files hold an encoder and a decoder; only decoders are read from tensors", field="tensors"
            )
        if not stacks:
            raise InputError(f"no numbered layers among {self.table.tensors:,} tensors", field="tensors")
        main = max(stacks, key=lambda s: sum(g.elements for g in stacks[s].values()))
        depth = self._depth(main, stacks[main])
        words = main.split(".")
        named = next((i for i, word in enumerate(words) if word in _LANGUAGE), -1)
        self.root = ".".join(words[: named + 1])
        beside = main.rpartition(".")[0]
        kinds = self.keys.kinds(depth)
        settings = self.keys.settings(kinds)
        reads_others = depth - self.keys.number("num_kv_shared_layers") or depth
        cache: dict[Any, Found] = {}
        for stack, numbered in stacks.items():
            for index in sorted(numbered):
                group = numbered[index]
                kind = kinds[index] if stack == main and index < depth else "full"
                own = settings[index] if stack == main and index < depth else {}
                if stack == main and index >= depth:
                    self._ahead(group)
                    continue
                if stack == main:
                    self.layer_bytes.append(sum(group.bytes.values()))
                keys = self.keys.of_layer(index, own)
                for pieces in _sublayers(group):
                    key = (tuple(p for _, p in pieces), kind, repr(sorted(own.items())), keys.listed)
                    if key not in cache:
                        cache[key] = read_layer([p for _, p in pieces], hidden, keys, kind, asked=self.asked)
                    layer, parts, blind = cache[key].layer, cache[key].parts, cache[key].blind
                    if not stack.startswith(self.root):
                        parts = dict.fromkeys(parts, _TOWER)
                        self.tower += sum(p.elements for _, p in pieces)
                    elif JOINS.search(stack):
                        parts = dict.fromkeys(parts, _BESIDE)
                    elif stack != main and (stack.rpartition(".")[0] != beside or not layer.attention):
                        parts = dict.fromkeys(parts, UNKNOWN)  # another sequence of something
                        self.extra += sum(p.elements for _, p in pieces)
                    else:
                        if index >= reads_others and stack == main:
                            layer = self._without_keys(layer, [p for _, p in pieces])
                        self.layers.append(layer)
                        self.sides.append(cache[key].side)
                        self._say(layer)
                        if blind:
                            self.blind[blind] = self.blind.get(blind, 0) + 1
                    for at, piece in pieces:
                        self._count(parts[piece.name], piece, group.bytes[at])
        return self.layers

    def _without_keys(self, layer: Layer, pieces: Sequence[Piece]) -> Layer:
        """A layer that reads what an earlier one cached: its own keys and values, where files hold them, rest."""
        if layer.attention is None or layer.attention.is_mla or layer.attention.shared_kv:
            return layer
        self.extra += sum(p.elements for p in pieces if role_of(p.path)[1] in ("k", "v", "k_norm", "v_norm"))
        return replace(layer, attention=replace(layer.attention, shared_kv=True))

    def _say(self, layer: Layer) -> None:
        for part, words in in_words(layer).items():
            table = self.words.setdefault(part, {})
            table[words] = table.get(words, 0) + 1

    def _told(self) -> None:
        """Layers whose cache is not known are refused, or said where the reading was asked for."""
        shared = [layer for layer in self.layers if layer.attention]
        if shared and all(layer.attention.shared_kv for layer in shared if layer.attention):
            self.blind["no keys and values in any layer"] = len(shared)
            self.layers[:] = [
                layer if layer.attention is None else replace(layer, attention=replace(layer.attention, window=0))
                for layer in self.layers
            ]
        if not self.blind:
            return
        names = ", ".join(printable(name)[:60] for name in list(self.blind)[:3])
        what = f"how {sum(self.blind.values())} layers mix tokens is not understood ({names})"
        if self.asked:
            self.fields.notes.append(f"NOTE: {what}: what they cache is not counted, their weights are")
        else:
            message = f"{what}, so what they cache is not known; --generic counts their weights alone"
            self.fields.problem("tensors", f"{_called(self.config)}: {message}")

    def _ahead(self, group: Group) -> None:
        for key, piece in group.pieces.items():
            self._count(_NEXT, piece, group.bytes[key])

    def _depth(self, stack: str, numbered: Mapping[int, Group]) -> int:
        """Layers of the model itself: those beyond what the config states guess more tokens."""
        held, stated = max(numbered) + 1, self.keys.number(*DEPTH)
        missing = [i for i in range(min(held, stated or held, MAX_LAYERS)) if i not in numbered]
        if held > MAX_LAYERS:
            raise InputError(f"layers up to {held - 1:,}; at most {MAX_LAYERS:,} are accepted", field=stack[:80])
        if stated > held or missing:
            first = missing[0] if missing else held
            what = f"layer {first} of {stated or held} is not in the files ({len(numbered)} are)"
            raise_all([Problem(f"{printable(stack)[:60]}", what)])
        ahead = [
            i
            for i in sorted(numbered)
            if any(re.search(r"eh_proj|enorm|hnorm|shared_head", p) for p, _ in numbered[i].pieces)
        ]
        return min(stated or held, ahead[0] if ahead else held) or held

    def structure(self, model: Transformer) -> Structure:
        """The table of what was found."""
        mixers = ("state space", "delta net", "short convolution", "linear attention", "recurrence")
        rows = []
        for part, (tensors, parameters, size, names) in self.rows.items():
            said = self.words.get("mixer" if part in mixers else part, {})
            words = "; ".join(f"{n} x {text}" for text, n in sorted(said.items(), key=lambda x: -x[1])[:3])
            shown = tuple(printable(name)[:60] for name in list(names)[:4])
            rows.append(Row(part, tensors, parameters, size, shown, words or _PARTS.get(part, "")))
        counted = sum(row.parameters for row in rows if row.part not in (_NEXT, _COPY))
        difference = abs(model.parameters() + self.tower - counted)
        if difference > LIMIT / 4 * counted:
            message = f"priced {model.parameters():,} parameters, the tensors hold {counted:,}"
            rows.append(Row(UNKNOWN, 0, difference, 0, (message,), ""))
        return Structure(tuple(sorted(rows, key=lambda row: -row.parameters)), tuple(self.layer_bytes))
