"""Where things lie: catalogues (the user's own, ours, those of installed packages) and the user's folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from steelyard.errors import InputError, show
from steelyard.registry import entry_points

__all__ = [
    "GROUP",
    "cache_folder",
    "catalogue_files",
    "catalogue_folders",
    "folder_to_write",
    "home",
    "missing_catalogue",
    "user_folder",
]

#: Entry points whose values name a package that holds a catalogue.
GROUP = "steelyard.catalogues"


@cache
def catalogue_folders() -> tuple[Path, ...]:
    """The root folder of every catalogue, in the order they are searched: the user's own, ours, the others by name.

    A folder of the user that may not be read is none: it is another user's.

    Raises:
        InputError: ``STEELYARD_CATALOGUE`` names what is no folder, or one that cannot be read.
    """
    own = Path(__file__).parent / "catalogue"
    users = user_folder()
    found = [own]
    if users is not None:
        if os.environ.get("STEELYARD_CATALOGUE") and os.path.exists(users) and not os.path.isdir(users):  # noqa: PTH110, PTH112
            raise InputError(f"expected a folder, got {show(str(users))}", field="STEELYARD_CATALOGUE")
        if _readable(users):
            found = [users, own]
        elif os.environ.get("STEELYARD_CATALOGUE"):
            raise InputError(f"the folder {str(users)[:80]!r} cannot be read", field="STEELYARD_CATALOGUE")
    for _, point in sorted(entry_points(GROUP).items()):
        spec = find_spec(point.value.partition(":")[0])
        places = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
        found += [p for p in places if p.resolve() != own.resolve()]
    return tuple(found)


def catalogue_files(kind: str) -> Iterator[Path]:
    """The TOML files of one folder of every catalogue (``machines``, ``recipes``), in the order they are searched."""
    for folder in catalogue_folders():
        yield from sorted((folder / kind).glob("*.toml"))


def missing_catalogue() -> str:
    """One line where ``STEELYARD_CATALOGUE`` names a folder that is not there; else empty."""
    named = os.environ.get("STEELYARD_CATALOGUE", "")
    if not named or os.path.exists(named):  # noqa: PTH110 - Path.exists raises for names no file system accepts
        return ""
    return f"STEELYARD_CATALOGUE: no folder {show(named)}; only the catalogues that are installed are read"


def _readable(folder: Path) -> bool:
    """Whether a folder and those in it can be read; one that is not there can."""
    try:
        for path in (folder, *folder.iterdir()):
            if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
                return False
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return True


def user_folder() -> Path | None:
    """The user's own catalogue: ``STEELYARD_CATALOGUE``, else the configuration folder of the platform; None: no home.

    It is searched first, so that a machine measured with ``steelyard calibrate`` wins over its catalogue entry.
    """
    named = os.environ.get("STEELYARD_CATALOGUE")
    if named:
        return Path(named)
    folder = _platform_folder("XDG_CONFIG_HOME", "Library/Application Support", ".config")
    return folder and folder / "steelyard" / "catalogue"


def folder_to_write(out: str | Path | None = None) -> Path:
    """Where a catalogue entry is written: the folder that is given, else the user's own catalogue.

    Raises:
        InputError: none is given, and the user has no home folder.
    """
    folder = Path(out) if out else user_folder()
    if folder is None:
        raise InputError("there is no home folder to write to; name a folder, or set STEELYARD_CATALOGUE", field="out")
    return folder


def cache_folder() -> Path | None:
    """The user's folder for what can be made again; None: no home."""
    return _platform_folder("XDG_CACHE_HOME", "Library/Caches", ".cache")


def _platform_folder(variable: str, on_mac: str, elsewhere: str) -> Path | None:
    """A folder of the user: as the variable says, else the platform's place in the home folder."""
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    named = os.environ.get(variable, "")
    if sys.platform != "darwin" and Path(named).is_absolute():  # relative ones are to be ignored (its specification)
        return Path(named)
    own = home()
    return own and own / (on_mac if sys.platform == "darwin" else elsewhere)


def home() -> Path | None:
    """The user's home folder; None where neither ``HOME`` nor the system knows one."""
    named = os.environ.get("HOME", "")
    if not named:
        try:
            import pwd

            named = pwd.getpwuid(os.getuid()).pw_dir
        except (ImportError, KeyError):
            named = os.environ.get("USERPROFILE", "")
    return Path(named) if Path(named).is_absolute() else None
