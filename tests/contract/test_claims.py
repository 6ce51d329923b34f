"""Claim files: whole, honest, and asked with words that the verbs understand."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from steelyard.claims.ask import answer, command, figure
from steelyard.claims.paper import Claim, Paper, papers
from steelyard.claims.verdict import VERDICTS
from steelyard.techniques import TECHNIQUES, parse
from steelyard.workload.oplist import PREFIX, find_op_list

PAPERS = papers()
PAGES = Path(__file__).parents[2] / "docs/claims"
RUNNING = [p for p in PAPERS.values() if p.runs]


def _numbers(value: Any) -> Iterator[float]:
    """Every number in the words of a scenario, those inside texts included."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, str):
        for part in re.split(r"[\s:,=+/;@]+", value):
            try:
                yield float(part.rstrip("sx%"))
            except ValueError:
                continue
    elif isinstance(value, dict):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)


def _claimed(claim: Claim) -> Iterator[float]:
    """Forms in which a published number could be handed in: itself, as a share, what remains of it."""
    published = claim.published if isinstance(claim.published, list | tuple) else (claim.published,)
    for number in published:
        if number is None or float(number) in (0.0, 1.0):
            continue
        value = float(number)
        yield value
        if claim.unit.startswith("%"):
            yield from (value / 100, 1 - value / 100, 1 + value / 100)
        elif value:
            yield 1 / value


def test_every_paper_of_the_seed_has_a_file_and_ids_are_in_order() -> None:
    assert [f"S{i:03d}" for i in range(1, 312)] == [i for i in PAPERS if i.startswith("S")]
    assert sum(len([c for c in p.claim if c.n]) for p in PAPERS.values()) == 446


@pytest.mark.parametrize("paper", RUNNING, ids=lambda p: p.id)
def test_scenarios_name_fields_and_techniques_that_there_are(paper: Paper) -> None:
    for name in paper.scenario:
        verb, words = paper.scene(name)
        assert command(verb, words).startswith(f"steelyard {verb.replace('search_', 'search ')}")
        named = words.get("techniques", ())
        for text in (named,) if isinstance(named, str) else named:
            parse(text)
    for name in paper.techniques:
        assert TECHNIQUES.get(name)


@pytest.mark.parametrize("paper", RUNNING, ids=lambda p: p.id)
def test_no_claimed_number_is_an_input_of_its_own_prediction(paper: Paper) -> None:
    for claim in paper.claim:
        if not claim.runs or claim.verdict == "assumed":
            continue
        given = list(_numbers(dict(claim.sweep)))
        for name in {claim.baseline, claim.subject} - {""}:
            words = {**paper.scene(name)[1], "swept": dict(claim.sweep)}
            given += _numbers({k: v for k, v in words.items() if k not in ("model", "on", "engine")})
            if str(words.get("model", "")).startswith("ops:"):
                given += _numbers(words["model"])
            for text in words.get("techniques", ()):
                technique = parse(text)
                given += _numbers([getattr(technique, p.field) for p in technique.parameters()])
                given += _numbers(dict(technique.words(paper.scene(name)[0])))
            if str(words.get("model")).startswith(PREFIX):
                listed, _, sizes = words["model"].removeprefix(PREFIX).partition(":")
                ops = find_op_list(listed)
                given += _numbers([sizes, dict(ops.sizes), [[op.number, op.count, dict(op.bits)] for op in ops.op]])
                given += _numbers([[rate.work, dict(rate.per_s)] for rate in ops.rates.values()])
        for number in _claimed(claim):
            same = [g for g in given if math.isclose(g, number, rel_tol=1e-3)]
            allowed = {float(x) for x in paper.coincidences}
            assert not [g for g in same if g not in allowed], f"claim {claim.n}: {number} is an input"


EXPONENTS = [(p, c) for p in RUNNING for c in p.claim if c.exact and c.runs and c.form == "exponent"]


def _exponent(claim: Claim, verb: str, words: Mapping[str, Any]) -> float:
    """Slope in the logs of a claim's figure over the one field that it sweeps."""
    ((name, sizes),) = claim.sweep.items()
    found = [figure(answer(verb, {**words, name: size}), claim.figure) for size in sizes]
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in found]).slope


@pytest.mark.parametrize(("paper", "claim"), EXPONENTS, ids=lambda x: getattr(x, "id", None) or f"{x.n}")
def test_exact_exponents_are_laws_of_the_work_and_not_of_one_machine(paper: Paper, claim: Claim) -> None:
    """No calibration bends them; without the technique the time of attention grows with the square."""
    verb, words = paper.scene(claim.subject)
    if claim.over:  # an exponent over a figure of the same answers: a count, of no machine
        return
    for machine in (words["on"], "mi300x", "l40s"):
        assert _exponent(claim, verb, {**words, "on": machine}) == pytest.approx(claim.published, abs=0.06)
    if claim.figure == "prefill.by_kind.attention":
        assert _exponent(claim, verb, {**words, "techniques": []}) == pytest.approx(2, abs=0.06)


def test_there_are_exact_exponents() -> None:
    assert {p.id for p, _ in EXPONENTS} >= {"S110", "S160", "S304"}


def test_the_pages_explain_every_claim_that_is_not_reproduced() -> None:
    """What is missed, or right in direction alone where a number is published, has its reason below the table."""
    unexplained, rows = [], 0
    for page in sorted(PAGES.glob("*.md")):
        table, _, whys = page.read_text(encoding="utf-8").partition("\n## Why\n")
        told = dict(re.findall(r"(?m)^- \*\*(S\d{3}) (.*)$", whys))
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" |")]
            if not re.match(r"\| S\d{3} ", line) or len(cells) < 8:
                continue
            rows += 1
            paper, n, published, verdict = line.split()[1], cells[1], cells[4], cells[7]
            short = verdict == "missed" or (verdict == "direction" and published)
            if n and short and f"claim {n}: " not in told.get(paper, ""):
                unexplained.append((page.stem, paper, n))
            assert verdict in VERDICTS, line
    assert rows > 446
    assert not unexplained
