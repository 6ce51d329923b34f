"""Tables of measurements that tests write."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_rows"]


def write_rows(path: Path, base: Mapping[str, Any], *rows: Mapping[str, Any]) -> Path:
    """Write a CSV whose rows are ``base`` with what each says besides; its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(base))
        writer.writeheader()
        writer.writerows([{**base, **row} for row in rows])
    return path.parent
