"""Hugging Face folders: the config, and the weight files beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from steelyard.documents import is_folder, read_document
from steelyard.errors import InputError, Problem, UnknownName, printable, show
from steelyard.workload.families import described, read_config
from steelyard.workload.ingest.safetensors import TensorInfo
from steelyard.workload.ingest.weights import Held, Weights, indexed, parts_of, weights_of
from steelyard.workload.model import Model
from steelyard.workload.protocol import Workload, restated
from steelyard.workload.shapes import Shapes

__all__ = ["load_path"]

_CONFIGS = (".json", ".yaml", ".yml", ".toml")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: Where quantisers describe what they did when the config does not: ModelOpt, AutoGPTQ, AutoAWQ.
_METHODS: Mapping[str, Mapping[str, str]] = {
    "hf_quant_config.json": {"quant_method": "modelopt"},
    "quantize_config.json": {"quant_method": "gptq"},
    "quant_config.json": {"quant_method": "awq"},
}
#: Stored types whose elements are parameters (packed integers hold several each).
_UNPACKED = frozenset(("fp32", "bf16", "fp16", "fp64"))
#: The bytes of files may differ from what the config comes to by this share without a remark.
_ALIKE = 0.005
#: The total an index states is believed within this factor of what the config comes to.
_BELIEVED = 2.0


def load_path(path: Path, *, generic: bool = False) -> Model:
    """Load a model from a folder, a config, a ``.gguf`` or a ``.safetensors`` file.

    Raises:
        InputError: see :func:`steelyard.workload.catalogue.load_model`.
    """
    if is_folder(path):
        return _folder(path, generic)
    suffix = path.suffix.lower()
    if not os.path.exists(path):  # noqa: PTH110 - a name too long for the file system is no file
        raise InputError(f"no file or folder at {show(str(path))}", field="model")
    if suffix == ".gguf":
        from steelyard.workload.ingest.gguf_model import load_gguf

        return load_gguf(path, generic=generic)
    if suffix == ".safetensors":
        return _with_weights(path.parent / "config.json", parts_of(path), generic)
    if suffix in _PICKLES:
        raise InputError(
            f"{path.name} may hold code and is not opened; give a config.json, .safetensors or .gguf", field="model"
        )
    if suffix not in _CONFIGS:
        known = ", ".join((*_CONFIGS, ".gguf", ".safetensors"))
        raise InputError(f"cannot tell what {path.name!r} is; known endings: {known}", field="model")
    if suffix == ".toml" and "op" in (document := read_document(path)) and "model_type" not in document:
        from steelyard.workload.oplist import load_op_list

        return load_op_list(path)
    if path.name.endswith(".index.json"):
        return _with_weights(path.parent / "config.json", indexed(path), generic)
    return _model(path, _config(path), generic)


def _folder(folder: Path, generic: bool) -> Model:
    config = folder / "config.json"
    weights = weights_of(folder)
    if config.is_file() or weights.files:
        return _with_weights(config, weights, generic)
    files = sorted(folder.glob("*.gguf"))
    if files:
        from steelyard.workload.ingest.gguf_model import first_parts, load_gguf

        firsts = first_parts(files)
        if len(firsts) > 1:
            names = ", ".join(f.name for f in firsts[:5])
            raise InputError(f"folder {str(folder)!r} holds several models, name one: {names}", field="model")
        return load_gguf(firsts[0], generic=generic)
    raise InputError(
        f"folder {str(folder)!r} has neither a config.json nor a .gguf or .safetensors file", field="model"
    )


def _with_weights(config: Path, weights: Weights, generic: bool) -> Model:
    """A model with the sizes of its files; one nobody described is read from their tensors."""
    document = _config(config) if config.is_file() else _mistral(config.with_name("params.json"))
    held = weights.read()
    known = bool(document) and described(document, refused=not generic)
    if held.tensors and known and not described(document, refused=False):
        hint = "; --generic reads it from its tensors all the same"
        return _moved(config, lambda: _described(config, document, generic), hint)
    if held.tensors and not known:
        return _by_structure(config, weights, document, held, generic)
    if not document:
        first = weights.files[0].name if weights.files else "the folder"
        message = f"{printable(first)[:80]} needs the model's config.json beside it: no weight file tells its sizes"
        raise InputError(message, field="model")
    if not known and weights.names:
        from steelyard.workload.structure.by_name import read_names

        name = _name(document, config)
        read, found = _moved(
            config, lambda: read_names(weights.names, weights.total_bytes, document, name=name, asked=generic)
        )
        total = weights.total_bytes or None
        return Model(name, read, f"file {config.name}", weight_bytes=total, structure=found, **_stored_by(document))
    model = _model(config, document, generic)
    if not held.tensors:
        return _sized(model, weights, held)
    loaded, ahead = _loaded(model.transformer, held.tensors)
    return _measured(model, weights, held, loaded, ahead)


def _measured(
    model: Model, weights: Weights, held: Held, loaded: Sequence[TensorInfo], ahead: Sequence[TensorInfo]
) -> Model:
    """With the exact bytes of the tensors that are loaded."""
    from steelyard.workload.ingest.safetensors import elements_note
    from steelyard.workload.ingest.stored import arithmetic_bytes, held_towers, stored_formats

    if held.unknown:
        return _sized(model, weights, held)
    model = _with_tower(model, loaded)
    towers = held_towers(model.transformer, loaded) if model.transformer.towers else ()
    if model.transformer.towers:
        model = replace(model, transformer=restated(model.transformer, towers=towers))
    formats = Held(tuple(loaded)).bytes_by_format
    size = sum(formats.values())
    found = stored_formats(model.transformer, loaded)
    notes = [*model.transformer.notes, *held.notes]
    if held.absent:
        notes.append(
            f"{held.absent} of {len(weights.files)} weight files are not there; {held.inferred:,} tensors are taken "
            "to be like those of other layers"
        )
    if ahead:
        gigabytes = sum(t.bytes for t in ahead) / 1e9
        notes.append(f"{gigabytes:.2f} GB of the files are multi-token prediction, which is not loaded")
    if _UNPACKED.issuperset(formats):
        counted = model.transformer.parameters() + sum(tower.parameters for tower in towers)
        notes += elements_note(counted, sum(t.elements for t in loaded))
    else:
        arithmetic = arithmetic_bytes(model.transformer)
        if abs(size - arithmetic) > _ALIKE * arithmetic:
            ours = f"the config comes to {arithmetic / 1e9:.4g} GB"
            notes.append(f"the files hold {size / 1e9:.4g} GB, {ours}; what the files hold counts")
    found["notes"] = tuple(notes)
    return replace(
        model, transformer=restated(model.transformer, **found), weight_bytes=size, tensor_bytes=dict(formats)
    )


def _with_tower(model: Model, loaded: Sequence[TensorInfo]) -> Model:
    """With the weights of towers that stand in the files and are not described."""
    from steelyard.workload.structure.beside import tower_of

    workload = model.transformer
    own = not isinstance(workload, Shapes) or workload.towers or workload.source is not None
    tower = None if own else tower_of(loaded)
    if tower is None:
        return model
    notes = [note for note in workload.notes if not note.startswith(("not counted, its", "only the language model of"))]
    notes.append(f"{tower.name} {tower.parameters / 1e9:.3g} B, as the files hold it; its layers are not described")
    return replace(model, transformer=restated(workload, towers=(tower,), notes=tuple(notes)))


def _loaded(model: Workload, tensors: Sequence[TensorInfo]) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """The tensors that are loaded, and those of heads and layers that only guess more tokens."""
    from steelyard.workload.structure.names import guesses

    depth = model.depth if any("multi-token" in note for note in model.notes) else 0
    loaded: list[TensorInfo] = []
    ahead: list[TensorInfo] = []
    for tensor in tensors:
        (ahead if guesses(tensor.name, depth) else loaded).append(tensor)
    return loaded, ahead


def _sized(model: Model, weights: Weights, held: Held) -> Model:
    """Without all headers: the bytes that an index states, where they can be this model's."""
    from steelyard.workload.ingest.stored import arithmetic_bytes

    if not weights.files:
        return model
    pickled = any(file.suffix != ".safetensors" for file in weights.files)
    what = f"{held.absent} of {len(weights.files)} weight files are not {'opened' if pickled else 'there'}"
    counted, stated = arithmetic_bytes(model.transformer), weights.total_bytes
    if stated and 1 / _BELIEVED < stated / counted < _BELIEVED:
        note = f"{what}; their {stated / 1e9:.2f} GB are what the index states"
        model = replace(model, weight_bytes=stated)
    else:
        note = f"{what}; their bytes are estimated"
        if stated:
            note += f": the {stated / 1e9:.2f} GB the index states are not this model's"
    return replace(model, transformer=restated(model.transformer, notes=(*model.transformer.notes, note)))


def _by_structure(config: Path, weights: Weights, document: Mapping[str, Any], held: Held, generic: bool) -> Model:
    """A model of a type nobody described, from its tensors."""
    from steelyard.workload.ingest.stored import stored_formats
    from steelyard.workload.structure import read_structure

    if held.unknown:
        missed = f"{len(held.unknown):,} tensors of the {held.absent} that are not there are like none in the others"
        shown = ", ".join(printable(name)[:60] for name in held.unknown[:2])
        raise InputError(f"{missed} ({shown})", field="model")
    where = config if document else weights.files[0]
    name = _name(document, where)
    transformer, found = _moved(where, lambda: read_structure(held.tensors, document, name=name, asked=generic))
    transformer = restated(transformer, notes=(*transformer.notes, *held.notes))
    loaded, _ = _loaded(transformer, held.tensors)
    formats = Held(tuple(loaded)).bytes_by_format
    if held.absent:
        note = (
            f"{held.absent} of {len(weights.files)} weight files are not there; {held.inferred:,} tensors are taken to "
            "be like those of other layers"
        )
        transformer = restated(transformer, notes=(*transformer.notes, note))
    own = stored_formats(transformer, loaded)
    return Model(
        name,
        restated(transformer, **own),
        f"tensors of {printable(weights.files[0].name)[:80]}",
        weight_bytes=sum(formats.values()),
        tensor_bytes=formats,
        structure=found,
        **_stored_by(document),
    )


def _config(path: Path) -> Mapping[str, Any]:
    """A config, with what a quantiser wrote beside it."""
    config: dict[str, Any] = read_document(path)
    if not any(config.get(key) for key in ("quantization_config", "compression_config", "quantization")):
        beside = next((f for f in (path.parent / name for name in _METHODS) if f.is_file()), None)
        if beside is not None and path.name == "config.json":
            config = {**config, "quantization_config": {**_METHODS.get(beside.name, {}), **read_document(beside)}}
    return config


def _mistral(path: Path) -> Mapping[str, Any]:
    """The sizes in a ``params.json`` (files as Meta and Mistral publish them), none where there is none."""
    if not path.is_file():
        return {}
    stated = read_document(path)
    inner = stated.get("moe")
    return {**stated, **(inner if isinstance(inner, Mapping) else {})}


def _model(path: Path, config: Mapping[str, Any], generic: bool) -> Model:
    return _moved(path, lambda: _described(path, config, generic))


def _described(path: Path, config: Mapping[str, Any], generic: bool) -> Model:
    name = _name(config, path)
    transformer = read_config(config, name=name, generic=generic)
    return Model(name, transformer, f"file {path.name}", **_stored_by(config))


_Read = TypeVar("_Read")


def _moved(path: Path, read: Callable[[], _Read], hint: str = "") -> _Read:
    """What a reader answers; its problems name the file, and end in a hint."""
    try:
        return read()
    except UnknownName:
        raise
    except InputError as error:
        moved = [Problem(f"{path.name}: {p.field}" if p.field else path.name, p.message + hint) for p in error.problems]
        raise InputError(moved[0].message, field=moved[0].field, problems=moved) from None


def _stored_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """How the weights were quantised, and the engine whose form they have, as the config says."""
    quant = config.get("quantization_config")
    method = str(quant.get("quant_method") or "").lower() if isinstance(quant, Mapping) else ""
    own = config.get("quantization")
    engine = "mlx" if isinstance(own, Mapping) and "group_size" in own and method in ("", "mlx") else ""
    return {"engine": "exllamav3" if method.startswith("exl3") else engine, "method": method}


def _name(config: Mapping[str, Any], path: Path) -> str:
    """What to call the model: its repository in a Hugging Face cache, the name in the config, or its folder."""
    for part in path.absolute().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    stated = str(config.get("_name_or_path") or "")
    if stated and not stated.startswith((".", "/", "~")):
        return printable(stated)[:200]
    return printable(path.resolve().parent.name if path.stem == "config" else path.stem)[:200]
