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
from typing import Any

from steelyard.errors import InputError, UnknownName, show
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["library_net"]

#: Tokens of a text whose length is not said.
_TOKENS = 128


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
    missing = [m for m in ("torch", library) if find_spec(m) is None]
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


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Torchvision's compiled kernels may be of another torch than the one installed: their shapes are then not
    registered, which is all that its import needs them for."""
    import torch

    register = torch.library.register_fake

    def leave(op: Any, *args: Any, **words: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            try:
                return register(op, *args, **words)
            except RuntimeError:
                return lambda function: function
        return register(op, *args, **words)

    torch.library.register_fake = leave
    try:
        yield
    finally:
        torch.library.register_fake = register


def _traced(build: Callable[[], Any], shape: tuple[int, ...], name: str, source: str) -> TensorGraph:
    import torch

    from steelyard.workload.ingest.torch_trace import trace_module

    def made() -> Any:
        with torch.device("meta"):
            return build().eval()

    return trace_module(made, lambda batch: (torch.empty(batch, *shape, device="meta"),), name, source)


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
    detects = name in models.list_models(module=models.detection)
    words = {"weights_backbone": None} if detects or name in models.list_models(module=models.segmentation) else {}
    usual = {"inception_v3": (299, 299), "vit_h_14": (224, 224)}.get(name, (224, 224))
    if name.startswith("efficientnet_b"):
        side = {0: 224, 1: 240, 2: 260, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}.get(int(name[-1]), 224)
        usual = (side, side)
    shape = (3, *_square(sides, usual))
    return _traced(
        lambda: models.get_model(name, weights=None, **words), shape, name, f"torchvision {torchvision.__version__}"
    )


def _transformers(transformers: Any, name: str, sides: tuple[int, ...]) -> TensorGraph:
    raise InputError("transformers: is not read yet", field="model")


def _diffusers(diffusers: Any, name: str, sides: tuple[int, ...]) -> TensorGraph:
    raise InputError("diffusers: is not read yet", field="model")
