"""What a page holds without a browser: its markup apart from its scripts, and the data of its figures."""

from __future__ import annotations

import json
import re
from typing import Any

_DATA = re.compile(r'<script type="application/json" id="figure-([\w-]+)">(.*?)</script>', re.DOTALL)


def figures_in(page: str) -> dict[str, dict[str, Any]]:
    """The data of every figure, by name."""
    return {name: json.loads(data) for name, data in _DATA.findall(page)}


def plain_markup(page: str) -> str:
    """The page without its scripts and their data."""
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
