"""What must hold for every technique, built in or not: subclass, give texts of it, run pytest.

::

    from steelyard.testing.techniques import TechniqueContract


    class TestMine(TechniqueContract):
        name = "my-technique"
        texts = ("my-technique", "my-technique:level=3")

It needs the extra ``[fast]``. A technique that only pays somewhere else than on the default scenario gives its own in
``words``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from steelyard.deployment.plan import DEGREES
from steelyard.errors import DoesNotFit, InputError
from steelyard.estimation.estimate import estimate
from steelyard.simulation.api import simulate
from steelyard.techniques._base import Technique
from steelyard.techniques._registry import TECHNIQUES, check_together, parse, read_techniques
from steelyard.traffic.trace import LENGTHS

__all__ = ["SCENARIO", "TechniqueContract", "figures", "play_together"]

#: A small service: two replicas of a small model, short of cache, with conversations that come back.
SCENARIO: Mapping[str, Any] = {
    "model": "llama-3.1-8b",
    "on": "h100_sxm",
    "rate": "20/s",
    "requests": 60,
    **dict(zip(LENGTHS, ("uniform:200-1500", "uniform:10-120"), strict=True)),
    "turns": 3,
    "think": "2s",
    "replicas": 2,
    "router": "least-loaded",
    "seed": 1,
    "flags": {"num_gpu_blocks_override": 420},
}
#: Figures of a summary that are not prices.
_NOT_PRICED = ("schema", "simulation", "provenance", "extras")


_KNOWN: dict[str, dict[str, Any]] = {}


def base_figures(words: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a scenario without techniques, computed once."""
    key = repr(sorted(words.items(), key=str))
    if key not in _KNOWN:
        _KNOWN[key] = figures(words)
    return _KNOWN[key]


def figures(words: Mapping[str, Any], techniques: tuple[str | Technique, ...] = ()) -> dict[str, Any]:
    """What a run says: its summary without what no technique can be judged by."""
    summary = simulate(**words, techniques=techniques).summary()
    return {k: v for k, v in summary.items() if k not in _NOT_PRICED}


def play_together(one: str, other: str, words: Mapping[str, Any] = SCENARIO) -> str:
    """Run a scenario with two techniques: the reason of the refusal, or empty when every request was answered."""
    try:
        run = simulate(**words, techniques=(one, other))
    except (InputError, DoesNotFit) as error:
        return str(error)
    done = run.records.completed
    assert done.any(), f"{one} with {other}: nothing was answered"
    assert int(run.itl_counts.sum()) == int(np.sum(run.trace.osl[done] - 1)), "a token was lost"
    return ""


class TechniqueContract:
    """What must hold for every technique."""

    name: ClassVar[str]
    texts: ClassVar[tuple[str, ...]] = ()
    """What stands behind ``--with``, at least once."""
    words: ClassVar[Mapping[str, Any]] = SCENARIO
    """A scenario where it changes something."""

    def test_it_says_who_it_is(self) -> None:
        cls = TECHNIQUES.get(self.name)
        assert cls.name == self.name
        for text in (cls.layer, cls.effect, cls.paper.title, cls.paper.source):
            assert text.strip()
        for parameter in cls.parameters():
            assert parameter.doc, f"{parameter.key} has no meaning in its annotation"
        assert set(cls.about()) >= {"effect", "layer", "verbs"}

    def test_its_text_reads_back(self) -> None:
        for text in self.texts:
            technique = parse(text)
            again = parse(str(technique))
            assert again == technique and hash(again) == hash(technique)
            assert str(again) == str(technique)

    def test_unknown_parameters_are_refused(self) -> None:
        with pytest.raises(InputError) as error:
            parse(f"{self.name}:no_such_parameter=1")
        assert "no_such_parameter" in str(error.value)

    def test_it_is_not_together_with_itself(self) -> None:
        technique = parse(self.texts[0])
        assert check_together([technique, technique])

    def test_it_changes_a_priced_number_or_says_why_not(self) -> None:
        if TECHNIQUES.get(self.name).batch_only:
            with pytest.raises(InputError, match="prices a static batch"):
                figures(self.words, self.texts[:1])
            return
        base = base_figures(self.words)
        for text in self.texts:
            assert figures(self.words, (text,)) != base, f"{text} changes nothing"

    def test_it_is_deterministic(self) -> None:
        text = self.texts[0]
        if TECHNIQUES.get(self.name).batch_only:
            assert self.static_batch(text) == self.static_batch(text)
            return
        runs = [simulate(**self.words, techniques=(text,)) for _ in range(2)]
        for name in ("ttft_s", "e2e_s", "replica"):
            a, b = (np.asarray(getattr(run.records, name)) for run in runs)
            assert a.tobytes() == b.tobytes()

    def test_provenance_names_it(self) -> None:
        if TECHNIQUES.get(self.name).batch_only:
            return
        (named,) = simulate(**self.words, techniques=(self.texts[0],)).techniques
        assert named == parse(self.texts[0])

    def static_batch(self, *texts: str) -> tuple[float, ...]:
        """Figures of a static batch."""
        words = {name: self.words[name] for name in ("model", "on", *DEGREES) if name in self.words} | {"batch": 8}
        found = estimate(**words, **dict(zip(LENGTHS, (2000, 200), strict=True)), techniques=texts)
        return (found.ttft_s, found.tpot_s, found.e2e_s, found.memory.total, found.energy_j)

    def test_a_static_batch_is_changed_or_refused(self) -> None:
        (technique,) = read_techniques({"techniques": self.texts[0]})
        if technique.serving and not technique.in_batch:
            with pytest.raises(InputError, match="acts while requests run"):
                self.static_batch(self.texts[0])
            return
        plain = self.static_batch()
        for text in self.texts if technique.batch_only else self.texts[:1]:
            assert self.static_batch(text) != plain, f"{text} changes nothing"
