"""A headless Chromium for the tests of pages: what a page looks like to a browser, as data."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

#: Measures the page in a frame of a given width: a window cannot be as narrow as a telephone.
_PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="f" src="%(page)s" style="border:0;width:%(width)dpx;height:3000px"></iframe><pre id="probe"></pre><script>
const frame = document.getElementById('f');
frame.onload = () => {
  const d = frame.contentDocument, w = frame.contentWindow, root = d.documentElement;
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const svgs = [...d.querySelectorAll('svg')].map(s => ({
    label: s.getAttribute('aria-label'), box: box(s),
    shapes: s.querySelectorAll('path[d]:not([d=""]), rect').length,
    texts: [...s.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t => (
      {words: t.textContent, kind: t.getAttribute('class'), box: box(t)})),
  }));
  document.getElementById('probe').textContent = JSON.stringify({
    title: d.title, width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight, svgs,
    headings: [...d.querySelectorAll('h1,h2')].map(e => e.textContent),
    rows: [...d.querySelectorAll('tr')].map(r => [...r.children].map(c => c.textContent)),
    text: d.body.innerText, scripts: d.scripts.length,
    loaded: w.performance.getEntriesByType('resource').map(e => e.name),
    colours: {page: w.getComputedStyle(d.body).backgroundColor, ink: w.getComputedStyle(d.body).color,
              soft: w.getComputedStyle(d.querySelector('p')).color,
              tick: w.getComputedStyle(d.querySelector('.tick')).fill},
  });
};
</script>"""


def executable() -> str:
    """Path of a Chromium; skips the test without one. ``CHROMIUM`` names another."""
    found = os.environ.get("CHROMIUM") or next((p for p in map(shutil.which, _NAMES) if p), None)
    if not found:
        pytest.skip("no Chromium on this computer")
    return found


def look(page: Path, folder: Path, *, width: int = 1200, dark: bool = False) -> dict[str, Any]:
    """Open a page without a network and measure it.

    Returns:
        what the probe found, and ``console``: every message of the page.
    """
    probe = folder / "probe.html"
    probe.write_text(_PROBE % {"page": page.resolve().as_uri(), "width": width}, encoding="utf-8")
    command = [
        executable(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 600)},3000",
        "--virtual-time-budget=10000",
        "--dump-dom",
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match and match.group(1), done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match.group(1)))
    found["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return found


def contrast(a: str, b: str) -> float:
    """Contrast of two CSS colours ``rgb(r, g, b)`` as WCAG 2 defines it, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
