"""Prices of hosted models: dated data, and words for one of them."""

from __future__ import annotations

import pytest

from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.search.against import HostedPrice, check_against, hosted_prices
from steelyard.search.api import read_question
from steelyard.workload.catalogue import find_model


def test_a_bill_is_of_the_tokens() -> None:
    price = HostedPrice("x", 1.0, 4.0, "2026-01", guess=False)
    assert price.request_usd(1000, 500) == pytest.approx(0.003)
    assert price.source == "x, 2026-01" and HostedPrice("y", 1.0, 1.0, "2025-06").source == "y, 2025-06, from memory"


def test_every_hosted_model_is_one_of_the_catalogue_and_dated() -> None:
    for model, prices in hosted_prices().items():
        assert find_model(model).id == model and all(p.date and p.prompt <= p.answer for p in prices)


def test_words_for_a_price() -> None:
    cheapest = check_against("api", "llama-3.1-8b")
    assert cheapest is not None and cheapest == min(hosted_prices()["meta-llama/Llama-3.1-8B"], key=lambda p: p.prompt)
    assert check_against("", "llama-3.1-8b") is None
    own = check_against("0.2/0.6", "no such model")
    assert own is not None and (own.prompt, own.answer, own.guess) == (0.2, 0.6, False)
    later = check_against("deepseek", "deepseek-v3")  # of two lists of one provider the newest
    assert later is not None and later.date == max(
        p.date for p in hosted_prices()["deepseek-ai/DeepSeek-V3"] if p.provider == "deepseek"
    )
    for text, message in (("groqq", "did you mean 'groq'"), ("a/b", "such as 0.2/0.6"), ("-1/2", "got '-1/2'")):
        with pytest.raises(InputError, match=message):
            check_against(text, "llama-3.1-8b")
    with pytest.raises(InputError, match=r"no hosted price of qwen3-0\.6b is known"):
        read_question({"model": "qwen3-0.6b", "on": "h100_sxm", "rate": "1/s", "against": "api"})


def test_prices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "hosted", "gpt-oss"]) == 0
    assert "openai/gpt-oss-120b" in capsys.readouterr().out
