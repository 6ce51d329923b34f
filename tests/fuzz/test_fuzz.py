"""The corpus is good data, and what was found once stays mended."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from steelyard.errors import InputError
from tests.fuzz.__main__ import tried
from tests.fuzz.mutate import mutant
from tests.fuzz.parsers import PARSERS

#: What was found, ``PARSER--WORDS.case``.
CASES = sorted((Path(__file__).parent / "regressions").glob("*.case"))
#: Parsers of which some seeds are refused: combinations of good words that do not go together, lengths alone.
REFUSED = {"specs", "words_estimate", "words_simulate", "words_plan", "planned", "trace_table", "trace_json"}


@pytest.mark.parametrize("name", [n for n in PARSERS if n not in REFUSED])
def test_seeds_are_accepted(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    for i, seed in enumerate(parser.seeds()[:3]):
        folder = tmp_path / str(i)
        folder.mkdir()
        parser.run(seed, folder)


@pytest.mark.parametrize("name", sorted(REFUSED - {"planned"}))
def test_most_seeds_of_words_are_accepted(name: str, tmp_path: Path) -> None:
    parser, refused = PARSERS[name], 0
    seeds = parser.seeds()[:12]
    for i, seed in enumerate(seeds):
        folder = tmp_path / str(i)
        folder.mkdir()
        try:
            parser.run(seed, folder)
        except InputError:
            refused += 1
    assert refused < len(seeds) / 2


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    assert tried(PARSERS[path.name.partition("--")[0]], path.read_bytes()) is None


def test_mutants_depend_on_the_seed_alone() -> None:
    seeds = PARSERS["study_toml"].seeds()
    made = [[mutant(random.Random(i), seeds[0], "toml", seeds) for i in range(30)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 20
