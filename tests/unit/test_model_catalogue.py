"""The model catalogue: published totals, active totals, names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.errors import InputError, UnknownName
from steelyard.workload.catalogue import find_model, load_model, model_names

NAMES = model_names()
ENTRIES = {name: find_model(name) for name in NAMES}
EXACT = [name for name, entry in ENTRIES.items() if entry.exact]
ROUTED = [name for name, entry in ENTRIES.items() if entry.active_parameters]
CACHED = [name for name, entry in ENTRIES.items() if entry.kv_bytes]
TOLERANCE = 0.001


def test_the_catalogue_is_large_enough() -> None:
    """At least 90 models, at least 40 with an exact published total."""
    assert len(NAMES) >= 90
    assert len(EXACT) >= 40


@pytest.mark.parametrize("name", EXACT)
def test_total_parameters(name: str) -> None:
    """Within 0.1 % of the published count."""
    assert load_model(name).transformer.parameters() == pytest.approx(ENTRIES[name].parameters, rel=TOLERANCE)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in EXACT])
def test_rounded_totals(name: str) -> None:
    """Within 3 % of a figure that a paper or card rounds."""
    assert load_model(name).transformer.parameters() == pytest.approx(ENTRIES[name].parameters, rel=0.03)


@pytest.mark.parametrize("name", ROUTED)
def test_active_parameters(name: str) -> None:
    """Publishers count the active weights with or without embedding and head, and round or cut: one unit of the last
    stated digit, for one of the three ways to count."""
    model, published = load_model(name).transformer, ENTRIES[name].active_parameters
    digits = str(published)
    unit = min(10 ** (len(digits) - len(digits.rstrip("0"))), 10**9)
    head = model.vocab * model.hidden
    bare = model.active_parameters(embedding=False)
    ways = (model.active_parameters(), bare, bare - head)
    assert min(abs(way - published) for way in ways) < max(unit, TOLERANCE * published)


def test_models_of_2025_and_26_state_their_active_parameters() -> None:
    """Every mixture of experts of these years, but one whose paper counts what the published files do not hold."""
    young = [n for n in NAMES if ENTRIES[n].released >= "2025" and getattr(load_model(n).transformer, "experts", 0)]
    assert len(young) > 60
    assert {n for n in young if not ENTRIES[n].active_parameters} == {"allenai/FlexOlmo-7x7B-1T"}
    assert all(ENTRIES[n].active_parameters_source for n in young if ENTRIES[n].active_parameters)


@pytest.mark.parametrize("name", CACHED)
def test_cache_of_a_token(name: str) -> None:
    """The cache in 16 bits is what a paper of its makers, or of those who compared with it, states."""
    entry = ENTRIES[name]
    assert entry.kv_source
    ours = 2 * float(load_model(name).transformer.kv_elements(entry.kv_tokens))
    assert ours == pytest.approx(entry.kv_bytes, rel=0.005)


def test_enough_entries_count() -> None:
    """Of 2025-26, 120 whose configs are published and whose totals are counts; 12 whose cache a paper states."""
    assert len([n for n in EXACT if ENTRIES[n].released >= "2025" and ENTRIES[n].confidence == "verified"]) >= 120
    assert len(CACHED) >= 12


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_complete(name: str) -> None:
    """Facts have a source and a confidence, and the stated context is not below the config's."""
    entry = ENTRIES[name]
    assert entry.source
    assert entry.confidence
    assert entry.context > 0
    assert entry.config["model_type"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_home(name: str) -> None:
    """The id, its copies and its aliases all find the entry."""
    entry = ENTRIES[name]
    for other in (entry.id, *entry.same_as, *entry.aliases, entry.id.lower(), entry.id.rpartition("/")[2]):
        assert find_model(other).id == entry.id, other


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Llama 3.1 70B", "meta-llama/Llama-3.1-70B"),
        ("llama-3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B"),
        ("LLAMA_3_1_8B_INSTRUCT", "meta-llama/Llama-3.1-8B"),
        ("llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf"),
        ("deepseek-v3", "deepseek-ai/DeepSeek-V3"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("gemma-3-27b", "google/gemma-3-27b-it"),
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        ("phi-4", "microsoft/phi-4"),
    ],
)
def test_names_are_forgiven(said: str, meant: str) -> None:
    """Case, dashes, organisation and endings."""
    assert find_model(said).id == meant


def test_unknown_name_suggests() -> None:
    """The nearest names, in one line."""
    with pytest.raises(UnknownName) as caught:
        load_model("lama-3.1-70b")
    assert "llama-3.1-70b" in caught.value.nearest
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "-", "/", "x" * 5000, "a\x00b"])
def test_strange_names(name: str) -> None:
    """No crash, one error."""
    with pytest.raises(InputError):
        load_model(name)


def test_context_of_the_model_is_known() -> None:
    """Decoders with rotary positions say how far they go."""
    assert load_model("llama-3.1-8b").transformer.max_context == 131_072


@pytest.mark.parametrize(
    ("name", "base", "weights"),
    [
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B", "fp8_block"),
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "meta-llama/Llama-3.3-70B-Instruct", "fp8"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-ai/DeepSeek-R1", "nvfp4"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B", "int4"),
    ],
)
def test_quantised_releases_are_taken_as_their_base(name: str, base: str, weights: str) -> None:
    model = load_model(name)
    assert model.transformer.native_weights == weights
    assert model.transformer.parameters() == load_model(base).transformer.parameters()
    assert any(name in note for note in model.transformer.notes)


def test_an_unknown_quantised_release_is_still_unknown() -> None:
    with pytest.raises(UnknownName):
        load_model("nobody/Nothing-7B-FP8")


def test_a_model_of_the_users_own_folder_is_found_first(tmp_path: Path) -> None:
    """The user's catalogue holds models as well as machines; a fresh process reads it."""
    (tmp_path / "models").mkdir()
    entry = find_model("llama-3.1-8b")
    lines = [f"{k} = {json.dumps(v)}" for k, v in entry.config.items() if isinstance(v, (int, float, str))]
    (tmp_path / "models" / "mine.toml").write_text(
        '[[model]]\nid = "me/my-own-model"\nparameters = 8030261248\nsource = "a test"\n[model.config]\n'
        + "\n".join(lines)
        + "\n"
    )
    code = "import steelyard as sy; print(sy.load_model('my-own-model').transformer.depth)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "STEELYARD_CATALOGUE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "32", done.stderr


def test_the_point_of_a_size_counts() -> None:
    assert load_model("opt-13b").transformer.parameters() == pytest.approx(12.85e9, rel=0.01)
    assert load_model("opt-1.3b").transformer.parameters() == pytest.approx(1.316e9, rel=0.01)
    assert find_model("Qwen2.5 0.5B").id == find_model("qwen2.5-0.5b-instruct").id
