"""Networks of libraries that are installed, by prefix: ``timm:``, ``torchvision:``, ``transformers:``, ``diffusers:``.

The library makes the module on torch's meta device, so no weights exist; it is traced and forgotten. Nothing is
downloaded and no code outside the library runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from steelyard.documents import is_folder, read_document
from steelyard.errors import InputError, UnknownName, show
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["installed", "library_net"]

#: Tokens of a text, samples of a sound (a second at 16 kHz) and frames of a video whose length is not said.
_TOKENS, _SAMPLES, _FRAMES = 128, 16_000, 16
#: Tokens of a prompt as CLIP pads it (Radford et al. 2021), which denoisers are given.
_PROMPT = 77


def library_net(library: str, name: str, sides: tuple[int, ...] = ()) -> TensorGraph:
    """A network as a library makes it.

    Args:
        library: ``timm``, ``torchvision``, ``transformers`` or ``diffusers``.
        name: of the network there; of transformers a ``model_type`` or a folder with a config, of diffusers a class.
        sides: of the input, ``(height, width)`` or ``(tokens,)``; none: the usual ones.

    Raises:
        UnknownName: the library has no such network.
        InputError: the library is not installed, or its module cannot be traced without weights.
    """
    reader: dict[str, Callable[[Any, str, tuple[int, ...]], TensorGraph]] = {
        "timm": _timm,
        "torchvision": _torchvision,
        "transformers": _transformers,
        "diffusers": _diffusers,
    }
    module = _imported(library)
    try:
        return reader[library](module, name, sides)
    except InputError:
        raise
    except Exception as error:  # whatever a library raises for a name, a size or a module it cannot run so
        raise InputError(
            f"{library} cannot run {show(name)} without weights: {type(error).__name__}: {show(str(error))}",
            field="model",
        ) from error


def _imported(library: str) -> Any:
    """The library. Raises :class:`InputError` where it is not installed."""
    missing = _missing(library)
    if missing:
        raise InputError(
            f"{library}: needs {' and '.join(missing)} installed (no weights are loaded); "
            "steelyard ls nets lists what answers without",
            field="model",
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        with _without_kernels():
            return import_module(library)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(f"{library} is installed and does not load: {show(str(error))}", field="model") from error


def _missing(library: str) -> list[str]:
    return [m for m in ("torch", library) if find_spec(m) is None]


def installed(library: str) -> bool:
    """Whether a library and torch are there, without importing them."""
    return not _missing(library)


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Torchvision's compiled kernels may be of another torch than the one installed: their shapes are then not
    registered, which is all that its import needs them for."""
    import torch

    register = torch.library.register_fake

    def leave(op: Any, *args: Any, **words: Any) -> Any:
        made = register(op, *args, **words)
        if not isinstance(op, str) or not op.startswith("torchvision::"):
            return made

        def tried(function: Any) -> Any:
            try:
                return made(function)
            except RuntimeError:
                return function

        return tried

    torch.library.register_fake = leave
    try:
        yield
    finally:
        torch.library.register_fake = register


def _traced(build: Callable[[], Any], shape: tuple[int, ...], name: str, source: str) -> TensorGraph:
    import torch

    return _trace(build, lambda batch: (torch.empty(batch, *shape, device="meta"),), name, source)


def _trace(build: Callable[[], Any], inputs: Callable[[int], tuple[Any, ...]], name: str, source: str) -> TensorGraph:
    import torch

    from steelyard.workload.ingest.torch_trace import trace_module

    def made() -> Any:
        with torch.device("meta"):
            return build().eval()

    return trace_module(made, inputs, name, source)


def _square(sides: tuple[int, ...], usual: tuple[int, int]) -> tuple[int, int]:
    return usual if not sides else (sides[0], sides[-1])


def _timm(timm: Any, name: str, sides: tuple[int, ...]) -> TensorGraph:
    plain = name.partition(".")[0]
    if plain not in (known := timm.list_models()):
        raise UnknownName("timm network", plain, known)
    config = timm.get_pretrained_cfg(name) or timm.get_pretrained_cfg(plain)
    channels, *usual = tuple(config.input_size) if config else (3, 224, 224)
    size = _square(sides, (usual[0], usual[1]))

    def trace(words: dict[str, Any]) -> TensorGraph:
        return _traced(lambda: timm.create_model(plain, **words), (channels, *size), name, f"timm {timm.__version__}")

    if size == tuple(usual):
        return trace({})
    try:
        return trace({"img_size": size})
    except (TypeError, RuntimeError, AssertionError):
        return trace({})


def _torchvision(torchvision: Any, name: str, sides: tuple[int, ...]) -> TensorGraph:
    models = torchvision.models
    if name not in (known := models.list_models()):
        raise UnknownName("torchvision network", name, known)
    kinds = {kind: set(models.list_models(module=getattr(models, kind))) for kind in _TORCHVISION}
    kind = next((k for k, names in kinds.items() if name in names), "")
    if kind == "optical_flow":
        raise InputError("networks of optical flow are not read", field="model")
    words: dict[str, Any] = {"weights_backbone": None} if kind in ("detection", "segmentation") else {}
    if name in ("googlenet", "inception_v3"):
        words = {"init_weights": False, "aux_logits": False}  # the classifiers on the way are of training
    usual, source = _TORCHVISION_SIZES.get(name, _TORCHVISION.get(kind, 224)), f"torchvision {torchvision.__version__}"
    shape: tuple[int, ...] = (3, *_square(sides, (usual, usual)))
    if kind == "video":
        shape = (3, _FRAMES, *shape[1:])

    def build() -> Any:
        module = models.get_model(name, weights=None, **words)
        return _scored(module) if kind == "detection" else module

    return _traced(build, shape, name, source + (", boxes up to their scores" if kind == "detection" else ""))


#: Kinds of torchvision's networks that are not classifiers of images, and their usual sides.
_TORCHVISION = {"detection": 640, "segmentation": 520, "video": 112, "optical_flow": 520}
_TORCHVISION_SIZES = {
    **{f"efficientnet_b{i}": side for i, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    "efficientnet_v2_s": 384,
    "efficientnet_v2_m": 480,
    "efficientnet_v2_l": 480,
    "inception_v3": 299,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "mvit_v1_b": 224,
    "mvit_v2_s": 224,
    "swin3d_t": 224,
    "swin3d_s": 224,
    "swin3d_b": 224,
    "s3d": 224,
    "vit_h_14": 224,
}

#: Boxes that the second stage of a detector looks at, and places of a side that each is pooled to.
_PROPOSALS, _POOLED = 1000, 7


def _scored(detector: Any) -> Any:
    """A detector of torchvision from image to scores: what cuts, sorts and suppresses boxes depends on values."""
    import torch

    class Scored(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = detector.backbone
            two = hasattr(detector, "rpn")
            self.first = detector.rpn.head if two else detector.head
            self.second = torch.nn.Sequential(*list(detector.roi_heads.children())[1:3]) if two else None

        def forward(self, x: Any) -> Any:
            found = self.backbone(x)
            levels = list(found.values()) if isinstance(found, dict) else [found]
            made = self.first(levels)
            if self.second is None:
                return made
            pooled = x.new_empty((x.shape[0] * _PROPOSALS, levels[0].shape[1], _POOLED, _POOLED))
            return made, self.second(pooled)

    return Scored()


def _transformers(transformers: Any, name: str, sides: tuple[int, ...]) -> TensorGraph:
    """A ``model_type`` with its usual config, or a folder with a ``config.json``; the model without a head."""
    import torch

    known = transformers.CONFIG_MAPPING.keys()
    if name in known:
        config = transformers.AutoConfig.for_model(name)
    elif is_folder(name):
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    else:
        raise UnknownName("model type of transformers", name, known)
    config.use_cache = False
    with torch.device("meta"):
        main = transformers.AutoModel.from_config(config).main_input_name
    two = bool(getattr(config, "is_encoder_decoder", False))

    class Called(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.AutoModel.from_config(config)

        def forward(self, *given: Any) -> Any:
            words = {main: given[0]} | ({"decoder_input_ids": given[1]} if two else {})
            return self.model(**words)

    shape, dtype = _transformers_input(config, main, sides)

    def given(batch: int) -> tuple[Any, ...]:
        first = torch.empty((batch, *shape), dtype=dtype, device="meta")
        second = torch.empty((batch, shape[0] if main == "input_ids" else 1), dtype=torch.long, device="meta")
        return (first, second) if two else (first,)

    return _trace(Called, given, name, f"transformers {transformers.__version__}")


def _transformers_input(config: Any, main: str, sides: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
    """Shape of one item and type of what a model is given first."""
    import torch

    def stated(*names: str, usual: int) -> int:
        parts = (config, getattr(config, "vision_config", None), getattr(config, "audio_config", None))
        found = [v for c in parts for n in names if (v := getattr(c, n, None)) is not None]
        first = found[0] if found else usual
        return int(first[0] if isinstance(first, list | tuple) else first)

    if main == "pixel_values":
        side = stated("image_size", usual=224)
        return (stated("num_channels", usual=3), *_square(sides, (side, side))), torch.float32
    if main == "input_values":
        return (sides[0] if sides else _SAMPLES,), torch.float32
    if main == "input_features":
        frames = 2 * stated("max_source_positions", usual=500)
        return (
            stated("num_mel_bins", "input_feat_per_channel", usual=80),
            sides[0] if sides else frames,
        ), torch.float32
    return (sides[0] if sides else _TOKENS,), torch.long


def _diffusers(diffusers: Any, name: str, sides: tuple[int, ...]) -> TensorGraph:
    """A class of diffusers with its usual config, or a folder with the ``config.json`` of one: one denoising step."""
    import torch

    if is_folder(name):
        config = dict(read_document(Path(name) / "config.json"))
        kind = str(config.pop("_class_name", ""))
    else:
        config, kind = {}, name
    known = [n for n in dir(diffusers) if n.endswith("Model") or n.startswith("Autoencoder")]
    if kind not in known:
        raise UnknownName("class of diffusers", kind, known)
    made = getattr(diffusers, kind)
    config = {k: v for k, v in config.items() if not k.startswith("_")}

    def build() -> Any:
        return made.from_config(config) if config else made()

    with torch.device("meta"):
        model = build()
    left_out = () if model.config.get("guidance_embeds") else ("guidance",)
    words = [n for n in signature(model.forward).parameters if n in _DENOISED and n not in left_out]
    usual = _first(model.config, "sample_size", "image_size", "resolution", usual=64)
    size = _square(sides, (usual, usual))

    class Called(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = build()

        def forward(self, *given: Any) -> Any:
            return self.model(**dict(zip(words, given, strict=True)), return_dict=False)

    def given(batch: int) -> tuple[Any, ...]:
        return tuple(_DENOISED[n](torch, model.config, batch, size) for n in words)

    return _trace(Called, given, name, f"diffusers {diffusers.__version__}")


def _first(config: Any, *names: str, usual: int) -> int:
    found = next((v for n in names if (v := config.get(n)) is not None), usual)
    return int(found[0] if isinstance(found, list | tuple) else found)


def _text(torch: Any, config: Any, batch: int, _: tuple[int, int]) -> Any:
    width = _first(config, "cross_attention_dim", "joint_attention_dim", "caption_channels", "text_dim", usual=768)
    return torch.empty(batch, _PROMPT, width, device="meta")


def _latents(torch: Any, config: Any, batch: int, size: tuple[int, int]) -> Any:
    channels = _first(config, "in_channels", usual=4)
    if "axes_dims_rope" in config:  # packed to a sequence
        return torch.empty(batch, size[0] * size[1] // 4, channels, device="meta")
    return torch.empty(batch, channels, *size, device="meta")


#: What denoisers of diffusers are given, by the name of the argument.
_DENOISED: dict[str, Callable[[Any, Any, int, tuple[int, int]], Any]] = {
    "sample": _latents,
    "hidden_states": _latents,
    "timestep": lambda torch, config, batch, size: torch.empty(batch, device="meta"),
    "encoder_hidden_states": _text,
    "pooled_projections": lambda torch, config, batch, size: torch.empty(
        batch, _first(config, "pooled_projection_dim", usual=768), device="meta"
    ),
    "guidance": lambda torch, config, batch, size: torch.empty(batch, device="meta"),
    "img_ids": lambda torch, config, batch, size: torch.empty(size[0] * size[1] // 4, 3, device="meta"),
    "txt_ids": lambda torch, config, batch, size: torch.empty(_PROMPT, 3, device="meta"),
}
