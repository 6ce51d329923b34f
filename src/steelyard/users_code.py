"""Code of the user's own that a question names as ``FILE.py:NAME``: found, run, and its errors told in one line.

Only what a person types, or passes in Python, names code; no data file does.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

from steelyard.documents import is_file, no_file
from steelyard.errors import InputError

__all__ = ["file_and_name", "run_file", "said", "theirs"]


@contextmanager
def theirs(what: str, field: str = "policy") -> Iterator[None]:
    """Run somebody's code; whatever it raises, ``sys.exit`` too, is an :class:`InputError`. Ctrl-C stays Ctrl-C."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(f"{what}: {said(error)}", field=field) from error


def said(error: BaseException) -> str:
    """An error of somebody's code in one line, with its place."""
    try:
        text = (str(error).splitlines() or [""])[0]
    except Exception:
        text = ""
    words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent
    outside = [f for f in frames if ours not in Path(f.filename).parents and not f.filename.startswith("<")]
    if outside and not isinstance(error, SyntaxError):
        words += f" ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"
    return words


def file_and_name(given: str, field: str, what: str = "CLASS") -> tuple[Path, str] | None:
    """File and name that ``FILE.py:NAME`` says; None for another text.

    Raises:
        InputError: half of it is missing, or there is no such file.
    """
    path, colon, name = given.rpartition(":")
    if not colon and not given.endswith(".py"):
        return None
    if not path.endswith(".py") or not name:
        raise InputError(f"expected a name or FILE.py:{what}, got {given!r}", field=field)
    try:
        file = Path(path).expanduser()
    except RuntimeError:  # "~user" of nobody
        file = Path(path)
    if not is_file(file):
        raise no_file(path, field)
    return file, name


class _Fresh(SourceFileLoader):
    """Reads the source every time and leaves no compiled file beside it."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def run_file(path: Path, field: str = "policy") -> ModuleType:
    """Run a file of the user's and return its module. Raises :class:`InputError`: it fails."""
    name = f"steelyard_{field}_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = spec_from_loader(name, _Fresh(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with theirs(f"{path} failed", field):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
