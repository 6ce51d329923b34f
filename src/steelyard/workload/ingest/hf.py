"""Hugging Face folders: the config, and the weight files beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard.documents import is_file, is_folder, read_document, read_text
from steelyard.errors import InputError, Problem, UnknownName, printable, show
from steelyard.workload.families import read_config
from steelyard.workload.model import Model
from steelyard.workload.protocol import restated

__all__ = ["load_path"]

_CONFIGS = (".json", ".yaml", ".yml", ".toml")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: Largest index file read, in bytes: one line per tensor, 9 MB for the 91,991 tensors of DeepSeek-V3.
MAX_INDEX = 128 * 2**20
#: Where quantisers describe what they did when the config does not: ModelOpt, AutoGPTQ, AutoAWQ.
_METHODS: Mapping[str, Mapping[str, str]] = {
    "hf_quant_config.json": {"quant_method": "modelopt"},
    "quantize_config.json": {"quant_method": "gptq"},
    "quant_config.json": {"quant_method": "awq"},
}
#: Stored types whose elements are parameters (packed integers hold several each).
_UNPACKED = frozenset(("fp32", "bf16", "fp16", "fp64"))
#: Most weight files read in one folder (the largest published models have a few hundred).
_MOST_FILES = 2000


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
        config = path.parent / "config.json"
        if not config.is_file():
            raise InputError(f"{path.name} needs the model's config.json beside it", field="model")
        return _with_weights(config, _shards(path), generic)
    if suffix in _PICKLES:
        raise InputError(
            f"{path.name} may hold code and is not opened; give a config.json, .safetensors or .gguf", field="model"
        )
    if suffix not in _CONFIGS:
        known = ", ".join((*_CONFIGS, ".gguf", ".safetensors"))
        raise InputError(f"cannot tell what {path.name!r} is; known endings: {known}", field="model")
    if path.name.endswith(".index.json"):
        return _with_weights(path.parent / "config.json", _indexed(path), generic)
    return _model(path, None, {}, generic)


def _folder(folder: Path, generic: bool) -> Model:
    config = folder / "config.json"
    if config.is_file():
        return _with_weights(config, _weight_files(folder), generic)
    files = sorted(folder.glob("*.gguf"))
    if files:
        from steelyard.workload.ingest.gguf_model import first_parts, load_gguf

        firsts = first_parts(files)
        if len(firsts) > 1:
            names = ", ".join(f.name for f in firsts[:5])
            raise InputError(f"folder {str(folder)!r} holds several models, name one: {names}", field="model")
        return load_gguf(firsts[0], generic=generic)
    raise InputError(f"folder {str(folder)!r} has neither a config.json nor a .gguf file", field="model")


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _indexed(index)
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _shards(path: Path) -> list[Path]:
    """The other parts of ``model-00001-of-00004.safetensors``, when it is such a part."""
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.safetensors", path.name)
    if match is None:
        return [path]
    count = min(int(match.group(3)), _MOST_FILES)
    return [path.parent / f"{match.group(1)}-{i:05d}-of-{match.group(3)}.safetensors" for i in range(1, count + 1)]


def _indexed(index: Path) -> list[Path]:
    """The files an index names; all must lie beside it."""
    try:
        content = json.loads(read_text(index, MAX_INDEX))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"malformed JSON: {error}", field=index.name) from error
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, Mapping) or not all(isinstance(v, str) for v in table.values()):
        raise InputError("expected a table of tensor and file names", field=f"{index.name}: weight_map")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{name!r} is not a file beside the index", field=f"{index.name}: weight_map")
    return [index.parent / name for name in names[:_MOST_FILES]]


def _with_weights(config: Path, files: list[Path], generic: bool) -> Model:
    from steelyard.workload.ingest.safetensors import TensorInfo, elements_note, read_safetensors
    from steelyard.workload.ingest.stored import stored_formats

    missing = [f.name for f in files if not is_file(f)]
    if missing or not files:
        note = (
            f"{len(missing)} of {len(files)} weight files are not there; their bytes are estimated" if missing else ""
        )
        return _model(config, None, {}, generic, note)
    total: dict[str, int] = {}
    tensors: list[TensorInfo] = []
    for file in files:
        header = read_safetensors(file)
        tensors += header.tensors
        for name, count in header.bytes_by_format.items():
            total[name] = total.get(name, 0) + count
    model = _model(config, sum(total.values()), total, generic)
    found = stored_formats(model.transformer, tensors)
    if _UNPACKED.issuperset(total):
        remark = elements_note(model.transformer.parameters(), sum(t.elements for t in tensors))
        found["notes"] = (*model.transformer.notes, *remark)
    return replace(model, transformer=restated(model.transformer, **found))


def _model(path: Path, weight_bytes: int | None, formats: Mapping[str, int], generic: bool, note: str = "") -> Model:
    config: dict[str, Any] = read_document(path)
    if not any(config.get(key) for key in ("quantization_config", "compression_config", "quantization")):
        beside = next((f for f in (path.parent / name for name in _METHODS) if f.is_file()), None)
        if beside is not None and path.name == "config.json":
            config = {**config, "quantization_config": {**_METHODS.get(beside.name, {}), **read_document(beside)}}
    name = _name(config, path)
    try:
        transformer = read_config(config, name=name, generic=generic)
    except UnknownName:
        raise
    except InputError as error:
        moved = [Problem(f"{path.name}: {p.field}" if p.field else path.name, p.message) for p in error.problems]
        raise InputError(moved[0].message, field=moved[0].field, problems=moved) from None
    if note:
        transformer = restated(transformer, notes=(*transformer.notes, note))
    return Model(
        name,
        transformer,
        f"file {path.name}",
        weight_bytes=weight_bytes,
        tensor_bytes=dict(formats),
        engine=_engine(config),
    )


def _engine(config: Mapping[str, Any]) -> str:
    """The engine whose form the weights have, as the config says."""
    quant = config.get("quantization_config")
    method = str(quant.get("quant_method", "")).lower() if isinstance(quant, Mapping) else ""
    if method.startswith("exl3"):
        return "exllamav3"
    own = config.get("quantization")
    return "mlx" if isinstance(own, Mapping) and "group_size" in own and method in ("", "mlx") else ""


def _name(config: Mapping[str, Any], path: Path) -> str:
    """What to call the model: its repository in a Hugging Face cache, the name in the config, or its folder."""
    for part in path.absolute().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    stated = str(config.get("_name_or_path") or "")
    if stated and not stated.startswith((".", "/", "~")):
        return printable(stated)[:200]
    return printable(path.resolve().parent.name if path.stem == "config" else path.stem)[:200]
