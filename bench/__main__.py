"""Run the benchmarks, or those named: ``python -m bench [NAME ...] [--json]``."""

from __future__ import annotations

import json
import sys

from bench import chips, page, plan, plan_training, price_rate, simulate, start_up, sweep, training_runs

PARTS = {
    part.__name__.rpartition(".")[2]: part
    for part in (start_up, price_rate, simulate, sweep, plan, plan_training, training_runs, page, chips)
}


def main(words: list[str]) -> int:
    """Print one line per figure, or all of them as JSON."""
    names = [word for word in words if word != "--json"] or [*PARTS]
    if unknown := [name for name in names if name not in PARTS]:
        print(f"no benchmark {', '.join(unknown)}: expected {', '.join(PARTS)}", file=sys.stderr)
        return 2
    figures = {key: figure for name in names for key, figure in PARTS[name].run().items()}
    if "--json" in words:
        print(json.dumps({"schema": "steelyard.bench/1", "figures": figures}, indent=1))
        return 0
    for name, figure in figures.items():
        target = f"   (target {figure['target']})" if "target" in figure else ""
        print(f"{name:58s} {figure['value']:>14,.3f} {figure['unit']}{target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
