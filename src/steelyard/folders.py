"""Where catalogues lie: the user's own, ours, those of installed packages."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from steelyard.registry import entry_points

__all__ = ["GROUP", "catalogue_folders", "user_folder"]

#: Entry points whose values name a package that holds a catalogue.
GROUP = "steelyard.catalogues"


@cache
def catalogue_folders() -> tuple[Path, ...]:
    """The root folder of every catalogue, in the order they are searched: the user's own, ours, the others by name."""
    own = Path(__file__).parent / "catalogue"
    found = [user_folder(), own]
    for _, point in sorted(entry_points(GROUP).items()):
        spec = find_spec(point.value.partition(":")[0])
        places = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
        found += [p for p in places if p.resolve() != own.resolve()]
    return tuple(found)


def user_folder() -> Path:
    """The user's own catalogue: ``STEELYARD_CATALOGUE``, else the configuration folder of the platform.

    It is searched first, so that a machine measured with ``steelyard calibrate`` wins over its catalogue entry.
    """
    named = os.environ.get("STEELYARD_CATALOGUE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "steelyard" / "catalogue"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "steelyard" / "catalogue"
