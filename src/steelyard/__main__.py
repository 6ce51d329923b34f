"""``python -m steelyard``: the command line."""

from __future__ import annotations

from steelyard.cli import run

if __name__ == "__main__":
    run()
