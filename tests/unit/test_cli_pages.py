"""``--html`` of the verbs: one file with the figures of the answer; what cannot be a page is refused at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.cli.main import main
from tests.web.markup import figures_in, plain_markup

ASKED = {
    "estimate": "estimate llama-3.1-8b --on h100_sxm --batch 8",
    "network": "estimate resnet50 --on h100_sxm",
    "compare": "compare h100_sxm mi300x",
    "train": "train llama-3.1-8b --on h100_sxm:8 --gbs 64 --seq 4096",
    "plan-train": "plan llama-3.1-8b --train --on h100_sxm:8 --gbs 64 --seq 4096",
}


@pytest.mark.parametrize("name", list(ASKED))
def test_every_verb_writes_its_page(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ASKED[name]
    page = tmp_path / "page.html"
    assert main([*line.split(), "--html", str(page), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    source = page.read_text(encoding="utf-8")
    assert "\ue000" not in source, "the letter that stands for an unbroken blank"
    figures = figures_in(source)
    assert figures and plain_markup(source).count("<figure ") == len(figures)
    if name == "estimate":
        rows = {row[0]: row[1] for row in figures["latency"]["rows"]}
        assert rows["TPOT"] == answer["tpot_s"] and rows["end to end"] == answer["e2e_s"]
    if name == "network":
        assert figures["latency"]["rows"][0][1] == answer["latency_s"]
    if name == "train":
        assert figures["memory"]["rows"][0][-1] == answer["memory_bytes"][0]["reserved"]


def test_a_page_is_of_one_answer_and_of_one_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["estimate", "llama-3.1-8b", "--on", "h100_sxm", "--batch", "1,2", "--html", str(page)]) == 2
    assert "--html: a page shows one answer, these are 2" in capsys.readouterr().err
    assert main(["estimate", "llama-3.1-8b", "--on", "h100_sxm", "--html", str(tmp_path / "page.pdf")]) == 2
    assert "expected a file ending in .html" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_page_that_does_not_fit_says_the_nearest_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["estimate", "llama-3.1-70b", "--on", "rtx_4090", "--html", str(page)]) == 3
    capsys.readouterr()
    source = plain_markup(page.read_text(encoding="utf-8"))
    assert "does not fit" in source and "nearest change that fits" in source
