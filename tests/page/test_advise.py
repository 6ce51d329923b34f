"""The screen of advice: the ranking is that of the library."""

from __future__ import annotations

from steelyard.page.screens.advise import SCREEN
from steelyard.search.advise import advise_words

WORDS = {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "4/s", "isl": 400, "osl": 60, "requests": 40}


def test_the_ranking_is_that_of_the_library() -> None:
    told: list[str] = []
    shown = SCREEN.ask(WORDS, lambda words, share=None: told.append(words))
    found = advise_words(WORDS)
    best = [t for t in found.ranked if t.gain > 1.005]
    assert shown.document["schema"] == found.to_dict()["schema"]
    assert [r["name"] for r in shown.view["ranked"]] == [" + ".join(t.names) for t in best][: len(shown.view["ranked"])]
    assert shown.view["ranked"], "no technique helps a plain scenario"
    assert any("combinations" in words for words in told)
