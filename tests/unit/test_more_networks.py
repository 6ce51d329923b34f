"""Speech, recurrent, state-space, ranking and recommending networks by name: what their papers say of them."""

from __future__ import annotations

import pytest

from steelyard.errors import InputError
from steelyard.workload.nets import find_net, load_net

#: Learned numbers by the papers, and how near the figure of a paper is.
PARAMETERS = {
    "ecapa_tdnn_512": (6.2e6, 0.01),
    "ecapa_tdnn": (14.7e6, 0.01),
    "wav2vec2_base": (94.4e6, 0.01),
    "conformer_l": (118.8e6, 0.04),  # the paper's has a decoder beside
    "conformer_m": (30.7e6, 0.12),
    "lstm_ptb_large": (66e6, 0.01),
    "vim_tiny": (7e6, 0.03),
    "vim_small": (26e6, 0.03),
    "tokenformer_124m": (124e6, 0.01),
    "tokenformer_354m": (354e6, 0.01),
    "tokenformer_757m": (757e6, 0.01),
    "dlrm_v2": (204_184_588 * 128 + 1.6e7, 0.001),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_papers(name: str) -> None:
    published, near = PARAMETERS[name]
    assert load_net(name).parameters == pytest.approx(published, rel=near)
    assert not list(load_net(name).unknown())


def test_scans_grow_with_the_sequence_and_attention_with_its_square() -> None:
    def growth(name: str, *sizes: int) -> float:
        short, long = (float(load_net(name, size=size).macs()) for size in sizes)
        return long / short

    assert growth("vim_tiny", 224, 448) == pytest.approx(4, rel=0.01)
    assert growth("mamba_mixer", 224, 448) == pytest.approx(4, rel=0.01)
    assert growth("s4d_lra", 4096, 8192) == pytest.approx(2, rel=0.02)
    assert growth("conformer_s", 1000, 4000) > 5
    assert load_net("lstm_ptb_large", size=70).macs() == 2 * load_net("lstm_ptb_large", size=35).macs()


def test_stored_vectors_take_the_passages_out_of_the_encoder() -> None:
    together = 1000 * float(load_net("monobert").macs())
    late, dot = float(load_net("colbert").macs()), float(load_net("bert_dot").macs())
    assert dot < late < together / 1000
    assert late - dot == pytest.approx(32 * 768 * 128 - 32 * 768 * 768 + 32 * 180_000 * 128 - 768_000, rel=0.01)


def test_tables_are_gathered_by_the_rows_looked_up() -> None:
    one, many = load_net("dlrm"), load_net("dlrm_v2")
    rows = [n.facts.get("rows_per_bag", 1) for n in many.nodes if n.op == "gather"]
    assert sum(rows) == 214 and len(rows) == 26
    assert float(one.peak_bytes({"batch": 64})) < 64 * 27 * 128 * 4 * 20
    with pytest.raises(InputError, match="expected 1 or 26 numbers, got 2"):
        load_net("dlrm", sets={"hots": "3,4"})


def test_a_gru_has_three_gates_of_an_lstms_four() -> None:
    lstm, gru = load_net("lstm_ptb_medium"), load_net("gru_ptb_medium")
    products = [float(g.macs()) - 35 * 650 * 10_000 for g in (lstm, gru)]
    assert products[1] / products[0] == pytest.approx(0.75)
    assert find_net("wav2vec2-base-960h").name == "wav2vec2_base"
    with pytest.raises(InputError, match="at least 400 samples"):
        load_net("wav2vec2_base", size=100)
