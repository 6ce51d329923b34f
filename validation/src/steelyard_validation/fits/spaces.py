"""The priors of searched spaces, ``catalogue/spaces/measured.toml``: costs of choices over all measured devices.

``python -m steelyard_validation.fits.spaces DATA > .../catalogue/spaces/measured.toml``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from steelyard.deployment.space_device import fit_prior, relative_costs
from steelyard_validation.readers.help_nas import ESTIMATORS, TABLES, clean, device_of, frame_of

__all__ = ["priors_text"]

SOURCE = "HELP (Lee et al., NeurIPS 2021), latency tables, MIT licence"


def priors_text(truth: Path) -> str:
    """The file's text; numbers keep four digits."""
    lines = [
        "# What devices have in common in searched spaces: costs of choices over the time of a mean network. Fitted",
        "# to measured latencies of devices by steelyard_validation/fits/spaces.py; docs/methods/spaces.md.",
    ]
    for stem in TABLES:
        space, counts, times = frame_of(truth / "help_nas_latency" / f"{stem}.parquet")
        real = [c for c in times if c not in ESTIMATORS]
        costs = [relative_costs(counts[k], times[c][k]) for c in real for k in [clean(times[c])]]
        prior = fit_prior(space.name, np.array(costs), sorted({device_of(c) for c in real}), SOURCE)
        lines += ["", "[[prior]]", f'space = "{prior.space}"', f'source = "{prior.source}"']
        lines += [f"devices = {list(prior.devices)}".replace("'", '"'), f"mean = {_row(prior.mean)}", "factors = ["]
        lines += [f"  {_row(row)}," for row in prior.factors] + ["]"]
    return "\n".join(lines) + "\n"


def _row(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{v:.3g}" if abs(v) >= 5e-5 else "0.0" for v in values) + "]"


if __name__ == "__main__":
    sys.stdout.write(priors_text(Path(sys.argv[1])))
