"""The blocks of Python that a guide shows."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["python_blocks"]

_GUIDES = Path(__file__).parents[1] / "docs" / "guide"


def python_blocks(guide: str) -> list[str]:
    """Those of a guide in order, with a title or without."""
    text = (_GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    return re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL)
