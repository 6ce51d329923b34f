"""``explain`` beside installed measured tables: shown where they have a near shape, silent where they do not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steelyard.calibrate import measured_kernels
from steelyard.cli import explain as verb
from steelyard.estimation.estimate import estimate


class Tables:
    """Stands for installed tables: knows products only, each at twice our 1 us."""

    def kernel_s(self, kernel: Any) -> float | None:
        return 2e-6 if kernel.kind == "gemm" else None


def test_measured_kernels_stand_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_kernels, "installed_tables", lambda: Path("tables"))
    monkeypatch.setattr(measured_kernels, "measured_kernels", lambda machine: Tables())
    found = verb._measured(estimate("llama-3.1-8b", on="h100_sxm"))
    products = [x for x in found if x["kind"] == "gemm"]
    assert {x["phase"] for x in found} == {"prefill", "decode"}
    assert products
    assert all(x["measured_s"] == 2e-6 and x["analytic_s"] > 0 for x in products)
    assert all(x["measured_s"] is None for x in found if x["kind"] != "gemm")
    assert verb._shown(found).count("2.0 us") == len(products)


def test_without_the_package_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_kernels, "installed_tables", lambda: None)
    assert verb._measured(estimate("llama-3.1-8b", on="h100_sxm")) == []
    assert verb._shown([]) == ""
