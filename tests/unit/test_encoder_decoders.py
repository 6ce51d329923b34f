"""Encoder-decoders: T5, BART and their kin, Whisper. Totals were counted on what ``transformers`` 5.24 builds."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Step, Transformer

_T5: dict[str, Any] = {"model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048}
_T5 |= {"num_layers": 6, "num_heads": 8}
_SIDES = ("encoder", "decoder")
_BART: dict[str, Any] = {"model_type": "bart", "vocab_size": 50265, "d_model": 1024}
_BART |= {f"{s}_{k}": v for s in _SIDES for k, v in (("layers", 12), ("attention_heads", 16), ("ffn_dim", 4096))}
_WHISPER: dict[str, Any] = {"model_type": "whisper", "vocab_size": 51865, "d_model": 384, "num_mel_bins": 80}
_WHISPER |= {f"{s}_{k}": v for s in _SIDES for k, v in (("layers", 4), ("attention_heads", 6), ("ffn_dim", 1536))}


def _read(config: dict[str, Any], **more: Any) -> Transformer:
    model = read_config({**config, **more})
    assert isinstance(model, Transformer)
    return model


@pytest.mark.parametrize(
    ("config", "more", "parameters"),
    [
        (_T5, {}, 60_506_624),
        (_T5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 73_089_536 + 32128 * 512),
        (_BART, {}, 406_291_456),
        (_BART, {"model_type": "mbart"}, 406_295_552),
        (_BART, {"model_type": "pegasus"}, 406_287_360),
        (_BART, {"model_type": "marian", "vocab_size": 58101}, 414_307_328),
        (_BART, {"model_type": "m2m_100", "vocab_size": 128112, "activation_function": "relu"}, 483_905_536),
        (_WHISPER, {}, 37_760_640),
    ],
)
def test_parameters_are_counted(config: dict[str, Any], more: dict[str, Any], parameters: int) -> None:
    assert _read(config, **more).parameters() == parameters


def test_the_encoder_runs_once_and_the_decoder_begins_with_one_token() -> None:
    model = _read(_T5)
    first, later = model.graph(Step.prefill(2, 100)), model.graph(Step.decode(2, 110))
    assert any(op.name.startswith("encoder0") for op in first)
    assert not any(op.name.startswith(("encoder0", "source")) or op.name.endswith("cross_kv") for op in later)
    sizes = {op.name: op for op in first}
    assert float(sizes["encoder0.qkv"].sizes["t"]) == 200
    assert float(sizes["layer0.qkv"].sizes["t"]) == 2
    assert float(sizes["layer0.cross_kv"].sizes["t"]) == 200
    # six encoder layers over 100 tokens: projections and feed-forward by hand
    layer = 4 * 512 * 512 + 2 * 512 * 2048
    scores = 2 * 8 * 64 * 100 * 100
    done = sum(float(op.macs() * op.count) for op in first if op.name.startswith("encoder0"))
    assert done == pytest.approx(6 * 2 * (100 * layer + scores))


def test_source_and_answer_are_cached_with_one_width() -> None:
    model = _read(_T5)
    assert float(model.kv_elements(300)) == 6 * 2 * 512 * 300
    whisper = _read(_WHISPER)
    assert float(whisper.kv_elements(10)) == 4 * 2 * 384 * (1500 + 10)


def test_sound_costs_the_same_whatever_the_prompt() -> None:
    model = _read(_WHISPER)

    def encoded(prompt: int) -> float:
        graph = model.graph(Step.prefill(1, prompt))
        return sum(float(op.macs() * op.count) for op in graph if op.name.startswith(("encoder", "stem")))

    stem = 3000 * 3 * 80 * 384 + 1500 * 3 * 384 * 384
    layers = 4 * (1500 * (4 * 384 * 384 + 2 * 384 * 1536) + 2 * 1500 * 1500 * 384)
    assert encoded(4) == encoded(40) == stem + layers


def test_estimate_answers_and_simulate_says_why_not(tmp_path: Any) -> None:
    import json

    path = tmp_path / "tiny-whisper.json"
    path.write_text(json.dumps(_WHISPER))
    short = sy.estimate(str(path), on="l4", isl=4, osl=20)
    assert short.tpot_s > 0
    assert short.ttft_s > 2 * short.tpot_s
    with pytest.raises(InputError, match="encoder"):
        sy.simulate(str(path), on="l4", rate="1/s", isl=4, osl=20)
    with pytest.raises(InputError, match="encoder"):
        sy.plan(str(path), on="l4", rate="1/s", isl=4, osl=20, ttft="p99:1s")


def test_usual_lengths_are_those_a_table_of_positions_has_room_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody gave any; given ones are kept, and refused where they do not fit."""
    asked: list[tuple[str, dict[str, int]]] = [("whisper-large-v3", {}), ("whisper-large-v3", {"isl": 300})]
    found = [sy.estimate(model, on="l4", **words) for model, words in [*asked, ("gpt2", {"osl": 100})]]
    assert [(e.scenario.isl, e.scenario.osl) for e in found] == [(336, 112), (300, 148), (924, 100)]
    assert sy.estimate("bert-base", on="l4").scenario.isl == 512
    assert any("fill the 448 positions" in said for said in found[0].ledger.assumptions)
    for isl, osl in ((1024, 256), (1024, 1)):
        with pytest.raises(InputError, match="where its table of positions ends"):
            sy.estimate("gpt2", on="l4", isl=isl, osl=osl)
    assert main(["estimate", "whisper-large-v3", "--on", "l4"]) == 0
    assert "336 prompt + 112 generated" in capsys.readouterr().out
    assert main(["estimate", "gpt2", "--on", "l4", "--isl", "1024"]) == 2
