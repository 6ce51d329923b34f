"""Files that the pages speak of as the reader's own, made small."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["lay"]

#: A trace of a few requests a second, with prompts and answers as chats have them.
_ROWS = [(0.31 * i, 400 + 137 * i % 1900, 60 + 53 * i % 400) for i in range(200)]


def lay(folder: Path) -> None:
    """Put them into the folder."""
    (folder / "catalogue").mkdir()
    azure = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    azure += [f"2023-11-16 18:{int(t) // 60:02d}:{t % 60:09.6f},{isl},{osl}" for t, isl, osl in _ROWS]
    for name in ("azure_conv.csv", "day.csv"):
        (folder / name).write_text("\n".join(azure) + "\n", encoding="utf-8")
    rows = ["arrived_at,isl,osl", *(f"{t:.2f},{isl},{osl}" for t, isl, osl in _ROWS)]
    (folder / "requests.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _onnx(folder)
    model = folder / "my-model"
    model.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _onnx(folder: Path) -> None:
    """A network of pictures and a product over tokens, where the library is installed."""
    try:
        from tests.onnx_nets import model, node, small_net, value, weight
    except ImportError:
        return
    tokens = value("x", "batch", "tokens", 64)
    encoder = model([node("MatMul", ["x", "w"], ["y"])], [tokens], "y", [weight("w", 64, 64)])
    (folder / "encoder.onnx").write_bytes(encoder.SerializeToString())
    (folder / "model.onnx").write_bytes(small_net().SerializeToString())
