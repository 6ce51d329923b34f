"""Names under which quantised copies of a model are published or run, taken apart: the model, its weights, the engine.

``hf.co/bartowski/Qwen_Qwen3-8B-GGUF:Q4_K_M``, ``qwen3:8b-q4_K_M``, ``mlx-community/Qwen3-8B-4bit``,
``unsloth/Qwen3-8B-bnb-4bit``: nothing is looked up, the words of the name say it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from steelyard.errors import InputError, show

__all__ = ["Published", "readings"]


@dataclass(frozen=True)
class Published:
    """One reading of a name."""

    model: str
    """What the model without all that would be called."""
    weights: str = ""
    """Format of the weights; empty: as the model is published."""
    engine: str = ""
    """The engine that reads them; empty: any."""
    note: str = ""
    """What was supposed, where the name does not say it."""


#: Formats of GGUF files as their names write them.
_GGUF = (
    r"(?:UD[-_])?(?:I?Q[1-8](?:_\d|_K(?:_(?:XS|S|M|L|XL|XXL))?|_(?:XXS|XS|S|M|L|NL|XL))"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|BF16|F16|F32|FP16)"
)
_IS_GGUF = re.compile(_GGUF, re.I)
_HOST = re.compile(
    r"^(?:(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co|ollama\.com/library|registry\.ollama\.ai/library)/"
    r"|ollama(?:_chat)?/)",
    re.I,
)
_REPOSITORY = re.compile(r"^(?P<model>.+?)(?:[-_.](?:i1|imatrix|imat|qat-q4_0))?[-_.]gguf$", re.I)
_QUANTISED = re.compile(rf"^(?P<model>.+?)[-_.](?P<quant>{_GGUF})(?:[-_.]gguf)?$", re.I)
#: What Ollama and llama.cpp take of a repository that has many.
_USUAL = "q4_k_m"
#: Groups of 64 with a 16-bit scale and offset each: bits and half a bit.
_MLX: Mapping[str, str] = {str(bits): f"mlx_{bits}bit" for bits in (2, 3, 4, 5, 6, 8)}
#: DeepSeek-R1 below its full size is R1's answers taught to other models.
_DISTILS: Mapping[str, str] = {
    "1.5b": "deepseek-r1-distill-qwen-1.5b",
    "7b": "deepseek-r1-distill-qwen-7b",
    "8b": "qwen3-8b",
    "14b": "deepseek-r1-distill-qwen-14b",
    "32b": "deepseek-r1-distill-qwen-32b",
    "70b": "deepseek-r1-distill-llama-70b",
    "671b": "deepseek-r1",
}
#: What the tag ``latest`` is in Ollama's library, where a name alone would be another size or none.
_LATEST: Mapping[str, str] = {
    **dict.fromkeys(("llama2", "codellama", "mistral", "gemma", "qwen2", "qwen2.5", "qwen2.5-coder"), "7b"),
    **dict.fromkeys(("llama3", "llama3.1", "qwen3", "qwen3-vl", "deepseek-r1"), "8b"),
    "llama3.2": "3b",
    "llama3.3": "70b",
    "llama3.2-vision": "11b",
    "gemma2": "9b",
    "gemma3": "4b",
    "gemma3n": "e4b",
    "qwen3-coder": "30b",
    "gpt-oss": "20b",
    "smollm2": "1.7b",
}

#: Makers whose own FP8 releases have one scale per 128 x 128 block. Source: their quantization_config.
_BLOCK_FP8 = ("qwen", "deepseek-ai", "zai-org", "minimaxai", "moonshotai")
#: Endings under which others publish a model with narrower weights, the format they mean, and the engine.
_ENDINGS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(rf"[-_.](?:{pattern})$", re.I), weights, engine)
    for pattern, weights, engine in (
        (r"(?:nvfp4a16|w4a16[-_]nvfp4)", "nvfp4_weight_only", ""),
        (r"(?:nvfp4|fp4)(?:[-_.]?v\d+|[-_.]qad)?", "nvfp4", ""),
        (r"mxfp4", "mxfp4", ""),
        (r"fp8[-_.]block", "fp8_block", ""),
        (r"fp8(?:[-_.](?:kv|dynamic))?|quantized\.fp8", "fp8", ""),
        (r"bf16", "bf16", ""),
        (r"w8a16|gptq[-_](?:int8|8bit)|bnb[-_.]8bit|quantized\.w8a16", "int8_weight_only", ""),
        (r"w8a8|int8|smoothquant|quantized\.w8a8", "int8", ""),
        (r"w4a8|w4afp8", "int4_fp8", ""),
        (r"(?:unsloth[-_.])?bnb[-_.]4bit|nf4", "nf4", ""),
        (r"(?:gptq|awq)[-_](?:int3|3bit)", "int3", ""),
        (r"(?:awq|gptq|autoround|auto[-_]round|hqq)(?:[-_.]?(?:int4|4bit|w4a16|marlin|g128|128g))*", "int4", ""),
        (r"w4a16(?:[-_]g\d+)?|int4(?:[-_](?:awq|gptq|autoround|mixed))?|quantized\.w4a16|quantized\.int4", "int4", ""),
    )
)
_MLX_NAME = re.compile(
    r"[-_.](?:(\d)[-_.]?bit(?:s)?(?:[-_.](?:dwq|mlx|g64|gs64|\d{4,8}|v\d))*|mxfp4|nvfp4|bf16|fp16)$", re.I
)
_EXL = re.compile(r"[-_.](?P<kind>exl[23])(?:[-_.](?P<own>\d+(?:\.\d+)?)[-_.]?(?:bpw|bits?)?)?$", re.I)
_BPW = re.compile(
    r"[-_.](?P<bits>\d+(?:\.\d+)?)[-_.]?bpw(?:[-_.]h\d+)?[-_.](?P<kind>exl[23])$|^(?P<tag>\d+(?:\.\d+)?)[-_.]?bpw", re.I
)


def readings(name: str) -> Iterator[Published]:
    """What a name may say, the likeliest first; empty: a plain name.

    Args:
        name: as typed.
    """
    plain = _HOST.sub("", name.strip()).split("/resolve/")[0].split("/tree/")[0].strip("/")
    if plain != name.strip() and ":" not in plain:
        yield from _within(Published(plain), _repository)
    repository, colon, tag = plain.partition(":")
    library = "/" not in repository or repository.lower().startswith("library/")
    if colon and tag and not re.search(r"\s", tag):
        yield from _tagged(repository.removeprefix("library/"), tag, library)
        return
    yield from _repository(plain)


def _within(whole: Published, reader: Callable[[str], Iterator[Published]]) -> Iterator[Published]:
    yield from reader(whole.model)
    yield whole


def _gguf_format(quant: str) -> str:
    text = quant.lower().replace("-", "_")
    return {"f16": "fp16", "f32": "fp32", "mxfp4": "mxfp4_moe"}.get(text, text)


def _tagged(repository: str, tag: str, library: bool) -> Iterator[Published]:
    """``REPOSITORY:TAG``: the file of a GGUF repository, or a tag of Ollama's library."""
    found = _REPOSITORY.match(repository)
    quant = _IS_GGUF.fullmatch(tag)
    exl, bits = _EXL.search(repository), _BPW.match(tag)
    if exl and bits and bits["tag"]:
        yield _exl(repository[: exl.start()], float(bits["tag"]))
        return
    if found or (quant and "/" in repository):
        if not quant and tag.lower() != "latest":
            message = f"expected a format of GGUF files such as Q4_K_M after the colon, got {show(tag)}"
            raise InputError(message, field="model")
        base = found["model"] if found else repository
        yield from _named(base, _gguf_format(tag) if quant else _USUAL, "llamacpp")
        return
    if not library:
        return
    split = re.fullmatch(rf"(?P<size>.*?)[-_]?(?P<quant>{_GGUF})", tag, re.I)
    size, weights = (split["size"], _gguf_format(split["quant"])) if split else (tag, "")
    size = _LATEST.get(repository.lower(), "") if size.lower() == "latest" else size
    first = size.partition("-")[0].lower()
    if size.lower().endswith("-qat"):
        size, weights = size[:-4], weights or "q4_0"
    base = f"{repository}-{size}" if size else repository
    if repository.lower() == "deepseek-r1" and first in _DISTILS:
        base = _DISTILS[first]
    yield from _named(base, weights, "ollama", "" if weights else "a tag of Ollama's library")


def _named(base: str, weights: str, engine: str, note: str = "") -> Iterator[Published]:
    """A model under the names copies give it: ``MAKER_MODEL`` of some, without ``-unsloth`` and the like."""
    yield Published(base, weights, engine, note)
    maker, slash, model = base.rpartition("/")
    head, under, rest = model.partition("_")
    if under and rest:
        yield Published(f"{head}/{rest}", weights, engine, note)
        yield Published(rest, weights, engine, note)
    shorter = re.sub(r"[-_.](?:unsloth|abliterated|uncensored|hf|text|\d{4})$", "", model, flags=re.I)
    if shorter != model:
        yield Published(f"{maker}{slash}{shorter}", weights, engine, note)


def _exl(base: str, bits: float) -> Published:
    whole = max(2, min(8, round(bits)))
    form = {8: "int8_weight_only", 7: "int8_weight_only"}.get(whole, f"int{whole}")
    return Published(base, f"{form}@{bits:g}", "exllamav3", f"{bits:g} bits per weight, 6 in the head")


def _repository(name: str) -> Iterator[Published]:
    """The name of a repository or a file that tells of its weights."""
    maker, slash, model = name.rpartition("/")
    found = _QUANTISED.match(name)
    if found and (_gguf_format(found["quant"]) not in ("bf16", "fp16", "mxfp4_moe") or model.lower().endswith("gguf")):
        yield from _named(found["model"], _gguf_format(found["quant"]), "llamacpp")
    if found := _REPOSITORY.match(name):
        note = f"{_USUAL}, which Ollama and llama.cpp take of a repository; NAME:QUANT names another"
        yield from _named(found["model"], _USUAL, "llamacpp", note)
    bits = _BPW.search(name)
    exl = _EXL.search(name)
    if (bits and bits["bits"]) or exl:
        stated = float(bits["bits"]) if bits and bits["bits"] else float(exl["own"]) if exl and exl["own"] else 0.0
        note = "" if stated else "4 bits per weight supposed"
        base = name[: (bits if bits and bits["bits"] else exl).start()]  # type: ignore[union-attr]
        found_exl = _exl(base, min(stated or 4.0, 8.0))
        yield Published(found_exl.model, found_exl.weights, found_exl.engine, note or found_exl.note)
    if maker.lower() in ("mlx-community", "mlx") or re.search(r"[-_.]mlx(?:[-_.]|$)", model, re.I):
        text = re.sub(r"[-_.]mlx(?=[-_.]|$)", "", model, flags=re.I)
        text = re.sub(r"[-_.]mxfp4[-_.]q8$", "-mxfp4", text, flags=re.I)
        ending = _MLX_NAME.search(text)
        if ending:
            base = text[: ending.start()]
            weights = _MLX.get(ending[1] or "", "") or {"m": "mxfp4", "n": "nvfp4_weight_only"}.get(
                ending[0][1].lower(), ""
            )
            yield from _named(base, weights, "mlx")
    for pattern, weights, engine in _ENDINGS:
        base = pattern.sub("", model)
        if base != model:
            own = "fp8_block" if weights == "fp8" and maker.lower() in _BLOCK_FP8 else weights
            note = (
                "layers the maker left in 16 bits are counted in 4"
                if "unsloth" in model.lower() and own == "nf4"
                else ""
            )
            yield Published(f"{maker}{slash}{base}", own, engine, note)
            yield from _named(base, own, engine, note)
