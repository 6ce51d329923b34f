"""What is installed here is what is pinned, and under a licence we may use; from the packages' own metadata, offline.

``make`` installs the pinned versions for tests and checks. ``python .ci/audit.py`` checks the environment it runs in
against ``dependencies.txt`` beside it; ``--write`` pins what is installed. A version nobody pinned, a licence not in
``ALLOWED`` and a package that names none each fail.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

PINS = Path(__file__).with_name("dependencies.txt")
#: Ours, and what a virtual environment brings along.
OURS = {"steelyard", "steelyard-validation", "pip", "setuptools", "uv", "wheel"}
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0"),
    *("PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "LLVM-exception"),
}
#: What packages without an SPDX expression say, and what is meant.
SAID = {
    **dict.fromkeys(("apache software license", "apache", "apache 2.0", "apache license 2.0"), "Apache-2.0"),
    **dict.fromkeys(("bsd license", "bsd", "bsd 3-clause license", "3-clause bsd license"), "BSD-3-Clause"),
    "bsd 2-clause license": "BSD-2-Clause",
    "mit license": "MIT",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}


def name_of(package: Distribution) -> str:
    """The normal form of a package's name."""
    return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()


def licences(package: Distribution) -> set[str]:
    """SPDX names a package is under: of its expression, else of its classifiers, else of its free text."""
    said = package.metadata.get("License-Expression")
    if said:
        return set(re.split(r"[\s()]+", str(said))) - {"", "AND", "OR", "WITH"}
    classes = [c.rpartition(" :: ")[2] for c in package.metadata.get_all("Classifier") or [] if c.startswith("License")]
    texts = classes or [str(package.metadata.get("License") or "").strip().partition("\n")[0]]
    parts = [part.strip() for text in texts for part in re.split(r" AND | OR ", text)]
    return {SAID.get(part.lower(), part) for part in parts if part}


def main(write: bool) -> int:
    """Pin what is installed, or say what differs."""
    found = {name_of(p): p for p in distributions() if name_of(p) not in OURS}
    if write:
        lines = [f"{name}=={found[name].version}\n" for name in sorted(found)]
        PINS.write_text(
            "# What `make test` was last seen to pass with; `.venv/bin/python .ci/audit.py --write` writes it.\n"
            + "".join(lines),
            encoding="utf-8",
        )
    pins = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pinned = dict(line.split("==") for line in pins)
    wrong = []
    for name, package in sorted(found.items()):
        if pinned.get(name) != package.version:
            wrong.append(f"{name} {package.version} is installed, {pinned.get(name) or 'nothing'} is pinned")
        under = licences(package)
        if not under or under - ALLOWED:
            wrong.append(f"{name} {package.version}: licence {', '.join(sorted(under)) or 'unknown'} is not allowed")
    print("\n".join(wrong) or f"{len(found)} packages as pinned, all under allowed licences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
