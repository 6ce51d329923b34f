"""``steelyard version``."""

from __future__ import annotations

import platform
from importlib import metadata

from steelyard._version import __version__
from steelyard.cli.output import Output, write


def version(*, output: Output = Output()) -> None:  # noqa: B008 - frozen
    """Print the versions that matter in a report of a problem."""
    facts = {"steelyard": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("numpy", "numba", "pydantic", "cyclopts"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    write(
        output,
        data={"schema": "steelyard.version/1", **facts},
        text=lambda _: "\n".join(f"{k} {v}" for k, v in facts.items()),
        rows=[facts],
    )
