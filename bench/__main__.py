"""Run every benchmark: ``python -m bench [--json]``."""

from __future__ import annotations

import json
import sys

from bench import chips, page, plan, plan_training, price_rate, simulate, start_up, sweep, training_runs


def main() -> int:
    """Print one line per figure, or all of them as JSON."""
    figures = {
        **start_up.run(),
        **price_rate.run(),
        **simulate.run(),
        **sweep.run(),
        **plan.run(),
        **plan_training.run(),
        **training_runs.run(),
        **page.run(),
        **chips.run(),
    }
    if "--json" in sys.argv[1:]:
        print(json.dumps({"schema": "steelyard.bench/1", "figures": figures}, indent=1))
        return 0
    for name, figure in figures.items():
        target = f"   (target {figure['target']})" if "target" in figure else ""
        print(f"{name:58s} {figure['value']:>14,.3f} {figure['unit']}{target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
