"""The wheel holds every file of the package, and so does one built from the source archive."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Fetched when the package is built: both hold them where npm could be asked.
FETCHED = {f"steelyard/report/assets/{name}" for name in ("echarts.js", "echarts.LICENSE.txt")}


def main(folder: Path) -> int:
    """Compare the wheel and the source archive in ``folder`` with the files kept in the repository."""
    git = ("git", "-C", str(ROOT), "ls-files", "-z", "src/steelyard")
    kept = {
        n.removeprefix("src/")
        for n in subprocess.run(git, check=True, capture_output=True, text=True).stdout.split("\0")
    }
    kept -= {""}
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as packed:
        inside = {n for n in packed.namelist() if n.startswith("steelyard/")}
    with tarfile.open(archive) as packed_source:
        source = {n.partition("/src/")[2] for n in packed_source.getnames() if "/src/steelyard/" in n}
    if (ROOT / "src" / min(FETCHED)).exists():
        kept |= FETCHED
    wrong = [f"not in the wheel: {n}" for n in sorted(kept - inside)]
    wrong += [f"only in the wheel: {n}" for n in sorted(inside - kept)]
    wrong += [f"not in the source archive: {n}" for n in sorted(kept - source)]
    print("\n".join(wrong) or f"{len(inside)} files in the wheel, {wheel.stat().st_size / 1e6:.1f} MB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
