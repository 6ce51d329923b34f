"""A container as users run it: uid 10001 without a passwd entry, nothing writable, no HOME, one CPU, 768 MiB.

Runs in the environment whose Python runs it, as root, in a mount namespace of its own where every file system is
read-only. Where that is not permitted it says so and ends well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UID = 10001
LIMIT_MIB = 768
#: File systems that hold files; others (proc, sysfs, cgroups) are left as they are.
WRITABLE = ("ext", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuse", "9p", "virtiofs", "nfs")
LOAD = ("--rate", "2/s", "--isl", "200", "--osl", "20")
QUESTIONS = (
    ("estimate", "llama-3.1-8b", "--on", "h100_sxm"),
    ("simulate", "llama-3.1-8b", "--on", "h100_sxm", *LOAD, "--requests", "50"),
    ("plan", "llama-3.1-8b", "--on", "h100_sxm", *LOAD, "--ttft", "p99:2s"),
    # these two compile every rule of the simulator
    ("simulate", "llama-3.1-8b", "--on", "h100_sxm", *LOAD, "--requests", "50", "--speculate", "eagle:k=3"),
    ("plan", "llama-3.1-8b", "--on", "h100_sxm:2", *LOAD, "--ttft", "p99:2s", "--mode", "disaggregated"),
)


def shown(path: Path) -> None:
    """Let others reach ``path`` where a folder above it is closed to them, in this mount namespace only."""
    closed = next((p for p in reversed(path.parents) if not p.stat().st_mode & 0o001), None)
    if closed is None:
        return
    held = tempfile.mkdtemp()
    subprocess.run(("mount", "--bind", str(path), held), check=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed)), check=True)
    path.mkdir(parents=True)
    subprocess.run(("mount", "--move", held, str(path)), check=True)


def read_only() -> None:
    """Make every file system of this mount namespace read-only."""
    subprocess.run(("mount", "--make-rprivate", "/"), check=True)
    shown(Path(sys.base_prefix).resolve())
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, at, kind, *_ = line.split()
        if kind.startswith(WRITABLE):
            subprocess.run(("mount", "-o", "remount,bind,ro", at), check=False, stderr=subprocess.DEVNULL)


def ask(words: tuple[str, ...]) -> str:
    """What is wrong with one question; its peak is printed."""
    command = (sys.executable, "-B", "-c", "from steelyard.cli.main import run; run()", *words)
    env = {"PATH": os.environ["PATH"], "LANG": "C", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        user=UID,
        group=UID,
        extra_groups=(),
        cwd="/",
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    peak_mib = used.ru_maxrss / 1024
    print(f"{words[0]}: code {code}, peak {peak_mib:.0f} MiB, {used.ru_utime + used.ru_stime:.1f} s of CPU", flush=True)
    if code or "Traceback" in said:
        return f"{words[0]}: code {code}\n{said[-2000:]}"
    return f"{words[0]}: peak {peak_mib:.0f} MiB, above {LIMIT_MIB}" if peak_mib > LIMIT_MIB else ""


def main() -> int:
    """Ask every question there; 1 when one went wrong."""
    if os.geteuid() != 0:
        print("skipped: needs root to become another user")
        return 0
    if "inside" not in sys.argv[1:]:
        there = shutil.which("unshare") and shutil.which("mount")
        if not there or subprocess.run(("unshare", "-m", "true"), check=False, capture_output=True).returncode:
            print("skipped: no mount namespace may be made here")
            return 0
        return subprocess.run(("unshare", "-m", sys.executable, "-B", __file__, "inside"), check=False).returncode
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    read_only()
    if any(os.access(p, os.W_OK) for p in ("/tmp", "/var/tmp", "/dev/shm")):
        print("skipped: the file system cannot be made read-only here")
        return 0
    faults = [fault for words in QUESTIONS if (fault := ask(words))]
    print("\n".join(faults) or "all answered")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
