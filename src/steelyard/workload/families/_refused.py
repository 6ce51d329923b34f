"""Model types that are known and not read, and why."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REFUSED"]

#: ``model_type`` -> the part that is not described.
REFUSED: Mapping[str, str] = {
    "blt": "byte patches through several models are not described",
    "diffusion_gemma_text": "a block-diffusion decoder, which does not write one token after another",
    "dory": "layers that are run several times are not described",
    "evolla": "adapters that attend to another model are not described",
    "gemma4_assistant": "a drafter for another model, with no embeddings of its own",
    "gemma4_unified_assistant": "a drafter for another model, with no embeddings of its own",
    "hrm_text": "layers that are run several times are not described",
    "inkling2_loop_text": "layers that are run several times are not described",
    "inkling2_text": "convolutions inside its attention blocks are not described",
    "jetmoe": "experts inside attention are not described",
    "reformer": "hashed attention is not described",
}
