"""Networks of sound against the modules of transformers on the meta device: FLOPs of their products and parameters.

Needs torch and transformers; nothing is downloaded, no weights are made.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from steelyard.workload.nets import load_net

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None, reason="needs torch and transformers"
    ),
]


def _flops(module: Any, *inputs: Any, **more: Any) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs, **more)
    return counter.get_total_flops()


def _empty(*shape: int) -> Any:
    import torch

    return torch.empty(*shape, device="meta")


def _case(name: str) -> tuple[Any, float]:
    """The module of a network, and its FLOPs at the network's usual size."""
    import torch
    import transformers as hf

    with torch.device("meta"):
        if name == "whisper_small_encoder":
            sides = {f"{s}_{k}": 12 for s in ("encoder", "decoder") for k in ("layers", "attention_heads")}
            config = hf.WhisperConfig(d_model=768, encoder_ffn_dim=3072, decoder_ffn_dim=3072, **sides)
            module = hf.WhisperModel(config).eval().encoder
            return module, _flops(module, _empty(1, 80, 3000))
        if name in ("vits_sound", "vits_flow"):
            vits = hf.VitsModel(hf.VitsConfig()).eval()
            if name == "vits_sound":
                return vits.decoder, _flops(vits.decoder, _empty(1, 192, 840))
            return vits.flow, _flops(vits.flow, _empty(1, 192, 840), _empty(1, 1, 840), reverse=True)
        if name == "hifigan_v1":
            voice = hf.FastSpeech2ConformerHifiGan(hf.FastSpeech2ConformerHifiGanConfig()).eval()
            return voice, _flops(voice, _empty(1, 200, 80))
        assert name in ("encodec_encoder", "encodec_decoder")
        codec = hf.EncodecModel(hf.EncodecConfig()).eval()
    side = codec.encoder if name == "encodec_encoder" else codec.decoder
    for part in side.modules():  # its paddings are computed from tensors, which have no values on the meta device
        if type(part).__name__ == "EncodecConv1d":
            kernel, stride = part.conv.kernel_size[0], part.conv.stride[0]
            del part.padding_total
            part.padding_total, part._get_extra_padding_for_conv1d = kernel - stride, lambda x: 0
    given = _empty(1, 1, 24000) if name == "encodec_encoder" else _empty(1, 128, 75)
    return side, _flops(side, given)


@pytest.mark.parametrize(
    "name",
    ["whisper_small_encoder", "vits_sound", "vits_flow", "hifigan_v1", "encodec_encoder", "encodec_decoder"],
)
def test_a_network_of_sound_does_what_the_library_does(name: str) -> None:
    module, flops = _case(name)
    ours = load_net(name)
    macs = float(ours.macs())
    if name == "encodec_encoder":  # eight books are asked apart
        macs -= 8 * 75 * 1024 * 128
    assert 2 * macs == pytest.approx(flops, rel=1e-6)
    assert ours.parameters == sum(p.numel() for p in module.parameters())
