"""Results of llama-bench beside estimates: JSON (``steelyard.compare/1``, kind ``llama_bench``), rows and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.report.paper import columns, figure, render, styled
from steelyard.report.plain import plain

if TYPE_CHECKING:
    from steelyard.estimation.llama_bench import LlamaBench, Tested

__all__ = ["flat_rows", "parts", "summary", "text", "to_dict"]


def _row(tested: Tested) -> dict[str, Any]:
    test = tested.test
    return {
        "test": test.name,
        "prompt_tokens": test.prompt,
        "generated_tokens": test.generated,
        "depth_tokens": test.depth,
        "measured": test.tokens_per_s,
        "deviation": test.deviation,
        "predicted": tested.predicted,
        "error_frac": tested.error_frac,
        "interval_80": [tested.low, tested.high],
        "inside": tested.inside,
        "fits": tested.estimate.fits,
    }


def to_dict(found: LlamaBench) -> dict[str, Any]:
    """The stable JSON form; speeds in tokens/s."""
    from steelyard.estimation.estimate import provenance

    s = found.rows[0].estimate.scenario
    return plain(  # type: ignore[no-any-return]
        {
            "schema": "steelyard.compare/1",
            "kind": "llama_bench",
            "run": found.name,
            "model": s.transformer.name,
            "on": str(s.cluster),
            "engine": s.engine.name,
            "weights": s.plan.weights,
            "kv": s.plan.kv,
            "taken": [*found.taken],
            "tests": [_row(tested) for tested in found.rows],
            "provenance": provenance(s),
        }
    )


def flat_rows(found: LlamaBench) -> list[dict[str, Any]]:
    """One row per test, for CSV."""
    rows = []
    for tested in found.rows:
        row = _row(tested)
        row.pop("interval_80")
        rows.append(
            plain({"model": tested.estimate.scenario.transformer.name, **row, "low": tested.low, "high": tested.high})
        )
    return rows


def summary(found: LlamaBench) -> str:
    """One line for a Python prompt."""
    inside = sum(tested.inside for tested in found.rows)
    return f"<LlamaBench {found.name}: {len(found)} tests, {inside} inside the 80 % interval>"


def text(found: LlamaBench, width: int | None = None) -> str:
    """Measured and predicted tokens/s, a row per test."""
    return render(parts(found), width)


def parts(found: LlamaBench) -> list[Any]:
    """The report as renderables."""
    made: list[Any] = []
    last = ("", "")
    body: list[list[str]] = []
    names = ("test", "measured", "predicted", "error", "80 % interval", " ")

    def end() -> None:
        if body:
            made.extend([columns(names, [*body], names[1:5]), ""])
            body.clear()

    for tested in found.rows:
        s = tested.estimate.scenario
        heading = f"{s.engine.title}; weights {s.plan.weights}, KV cache {s.plan.kv}"
        where = f"{s.transformer.name} on {s.cluster.title}"
        if (where, heading) != last:
            end()
            made += [styled((found.name, "bold"), " beside ", (where, "bold")), styled(heading)]
            last = (where, heading)
        deviation = f" ± {figure(tested.test.deviation)}" if tested.test.deviation else ""
        body.append(
            [
                tested.test.name,
                f"{figure(tested.test.tokens_per_s)}{deviation}",
                figure(tested.predicted),
                f"{tested.error_frac:+,.1%}",
                f"{figure(tested.low)} - {figure(tested.high)}",
                ("inside" if tested.inside else "outside") + ("" if tested.estimate.fits else ", does not fit"),
            ]
        )
    end()
    notes = [styled("tokens/s of one sequence; no wait of a server is in them")]
    if found.taken:
        notes.insert(0, styled(f"from the result: {', '.join(found.taken)}"))
    return [*made, *notes]
