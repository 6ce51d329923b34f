"""Fetches the chart library of the pages from npm when the package is built, pinned by its hash.

``python hatch_build.py`` does it by hand, ``python hatch_build.py axe`` fetches what only the tests of pages use.
Without npm, or without a network, the build goes on: pages then have static pictures and say so.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
ASSETS = ROOT / "src/steelyard/report/assets"
TESTS = ROOT / "tests/web"
#: Seconds npm may take, and bytes of a package at most.
PATIENCE_S, MOST = 120, 100_000_000


class LibraryHook(BuildHookInterface[Any]):
    """Before a wheel, an archive or an editable install is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is missing; say what cannot be had."""
        for problem in fetch(ASSETS):
            self.app.display_warning(problem)


def fetch(folder: Path) -> list[str]:
    """Bring every library of a folder's ``libraries.toml`` into it; returns what could not be had, in words."""
    problems = []
    for name, library in tomllib.loads((folder / "libraries.toml").read_text(encoding="utf-8")).items():
        target = folder / f"{name}.js"
        if target.exists() and _hash(target.read_bytes()) == library["sha256"]:
            continue
        try:
            _fetch(library, target)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError, ValueError) as error:
            problems.append(f"{library['package']} cannot be had from npm, pages do without it: {error}")
    return problems


def _fetch(library: dict[str, Any], target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    with tempfile.TemporaryDirectory() as made:
        command = [npm, "pack", library["package"], "--silent", "--pack-destination", made]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S, cwd=made)  # noqa: S603 - ours
        (packed,) = Path(made).glob("*.tgz")
        with tarfile.open(packed) as archive:
            content = _member(archive, library["file"])
            notices = [_member(archive, notice) for notice in library["notices"]]
    if _hash(content) != library["sha256"]:
        raise ValueError(f"its hash is {_hash(content)}, expected {library['sha256']}")
    (target.parent / f"{target.stem}.LICENSE.txt").write_bytes(b"\n\n".join(notices))
    part = target.with_suffix(".part")
    part.write_bytes(content)
    part.replace(target)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(f"package/{name}")
    stream = archive.extractfile(member)
    if stream is None or member.size > MOST:
        raise ValueError(f"{name} is no file of a bearable size")
    return stream.read()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    wrong = fetch(TESTS if sys.argv[1:] == ["axe"] else ASSETS)
    print("\n".join(wrong) or "fetched")
    sys.exit(1 if wrong else 0)
