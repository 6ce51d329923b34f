"""A plan beside a hosted model: the bill of the traffic there, and the load from which the rent is less."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.search.against import HostedPrice, check_against, hosted_prices, reasons_against
from steelyard.search.api import read_question
from steelyard.workload.catalogue import find_model


def answer(rate: float, rent: float, most: float, machine: str = "h100_sxm") -> Any:
    question = SimpleNamespace(
        prompt_tokens=1000.0, output_tokens=500.0, rate_per_s=rate, concurrency=None, machine=find_machine
    )
    winner = SimpleNamespace(rent_usd_per_hour=rent, max_rate_per_s=most, machine=machine, devices=1, watts=700.0)
    return SimpleNamespace(question=question, winner=winner)


def test_the_bill_and_the_break_even_are_of_the_tokens() -> None:
    price = HostedPrice("x", 1.0, 4.0, "2026-01", guess=False)
    assert price.request_usd(1000, 500) == pytest.approx(0.003)
    bill, even, *_ = reasons_against(answer(2.0, 10.8, 5.0), price)
    assert "21.60 USD/h for this traffic around the clock, 10.80 rented: the rent is 50% of the API" in bill
    assert "pays from 1 requests/s on average over all hours (50% of what was asked)" in even
    bill, even, *_ = reasons_against(answer(0.5, 108.0, 5.0), price)
    assert "the API is 5% of the rent" in bill and "10 requests/s on average, more than this deployment holds" in even
    assert not list(reasons_against(SimpleNamespace(question=None, winner=None), price))


def test_bought_devices_have_a_use_from_which_they_pay() -> None:
    bought = list(reasons_against(answer(1.0, 3.0, 5.0), HostedPrice("x", 1, 1)))[2]
    capital, power = find_machine("h100_sxm").capex_usd / (3 * 8760), 0.07
    assert f"{capital + power:,.2f} USD/h over 3 years, 0.07 of it power" in bought
    assert f"from a use of {capital / (3.0 - power):.0%}" in bought


def test_every_hosted_model_is_one_of_the_catalogue_and_dated() -> None:
    for model, prices in hosted_prices().items():
        assert find_model(model).id == model and all(p.date and p.prompt <= p.answer for p in prices)


def test_words_for_a_price() -> None:
    cheapest = check_against("api", "llama-3.1-8b")
    assert cheapest is not None and cheapest == min(hosted_prices()["meta-llama/Llama-3.1-8B"], key=lambda p: p.prompt)
    assert check_against("", "llama-3.1-8b") is None
    own = check_against("0.2/0.6", "no such model")
    assert own is not None and (own.prompt, own.answer, own.guess) == (0.2, 0.6, False)
    for text, message in (("groqq", "did you mean 'groq'"), ("a/b", "such as 0.2/0.6"), ("-1/2", "got '-1/2'")):
        with pytest.raises(InputError, match=message):
            check_against(text, "llama-3.1-8b")
    with pytest.raises(InputError, match=r"no hosted price of qwen3-0\.6b is known"):
        read_question({"model": "qwen3-0.6b", "on": "h100_sxm", "rate": "1/s", "against": "api"})


def test_prices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "hosted", "gpt-oss"]) == 0
    assert "openai/gpt-oss-120b" in capsys.readouterr().out
