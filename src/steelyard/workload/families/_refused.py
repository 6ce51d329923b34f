"""Model types that are known and not read, and why."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REFUSED"]

#: ``model_type`` -> the part that is not described.
REFUSED: Mapping[str, str] = {
    "bert-generation": "language models of before 2023 that are not in use are not described",
    "big_bird": "language models of before 2023 that are not in use are not described",
    "bigbird_pegasus": "encoder-decoders with sparse or long attention are not described",
    "biogpt": "language models of before 2023 that are not in use are not described",
    "blip": "image captioners of before 2023 are not described",
    "blt": "byte patches through several models are not described",
    "cpmant": "language models of before 2023 that are not in use are not described",
    "ctrl": "language models of before 2023 that are not in use are not described",
    "data2vec-text": "language models of before 2023 that are not in use are not described",
    "diffusion_gemma_text": "a block-diffusion decoder, which does not write one token after another",
    "encoder-decoder": "language models of before 2023 that are not in use are not described",
    "fsmt": "language models of before 2023 that are not in use are not described",
    "prophetnet": "language models of before 2023 that are not in use are not described",
    "electra": "language models of before 2023 that are not in use are not described",
    "ernie": "language models of before 2023 that are not in use are not described",
    "git": "image captioners of before 2023 are not described",
    "gpt_neox_japanese": "language models of before 2023 that are not in use are not described",
    "led": "encoder-decoders with sparse or long attention are not described",
    "longt5": "encoder-decoders with sparse or long attention are not described",
    "megatron-bert": "language models of before 2023 that are not in use are not described",
    "openai-gpt": "language models of before 2023 that are not in use are not described",
    "pegasus_x": "encoder-decoders with sparse or long attention are not described",
    "pix2struct": "image captioners of before 2023 are not described",
    "reformer": "hashed attention is not described",
    "rembert": "language models of before 2023 that are not in use are not described",
    "roberta-prelayernorm": "language models of before 2023 that are not in use are not described",
    "roc_bert": "language models of before 2023 that are not in use are not described",
    "roformer": "language models of before 2023 that are not in use are not described",
    "seamless_m4t": "speech models with an encoder other than Whisper's are not described",
    "seamless_m4t_v2": "speech models with an encoder other than Whisper's are not described",
    "speech-encoder-decoder": "speech models with an encoder other than Whisper's are not described",
    "speech_to_text": "speech models with an encoder other than Whisper's are not described",
    "speecht5": "speech models with an encoder other than Whisper's are not described",
    "trocr": "image captioners of before 2023 are not described",
    "udop": "image captioners of before 2023 are not described",
    "vision-encoder-decoder": "image captioners of before 2023 are not described",
    "xglm": "language models of before 2023 that are not in use are not described",
    "xlm": "language models of before 2023 that are not in use are not described",
    "xlm-roberta-xl": "language models of before 2023 that are not in use are not described",
    "xlnet": "language models of before 2023 that are not in use are not described",
    "xmod": "language models of before 2023 that are not in use are not described",
}
