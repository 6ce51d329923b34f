"""The folder of launch files: what goes in, and writing it whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from steelyard.documents import read_bytes, read_text
from steelyard.errors import InputError
from steelyard.launch.compose import compose, one_node
from steelyard.launch.documents import comment
from steelyard.launch.graphs import dynamo, llm_d, runs_dynamo, runs_llm_d
from steelyard.launch.kubernetes import kubernetes
from steelyard.launch.readme import readme
from steelyard.launch.scripts import scripts
from steelyard.launch.service import Service
from steelyard.machine.loader import machine_text
from steelyard.writing import check_target, not_written

__all__ = ["MANIFEST", "check_folder", "launch_files", "write_folder"]

#: Lists the files of a plan and the hashes of what was written.
MANIFEST = ".steelyard-files"


def launch_files(service: Service, *, more_files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every launch file by name, the README first.

    Args:
        service: from :func:`steelyard.launch.service.service`.
        more_files: further files of the folder and what they are, for the README.
    """
    files = dict(scripts(service))
    if not _by_mpi(service):
        files["compose.yaml"] = compose(service)
        if all(u.accelerator != "cpu" for u in service.units):
            files["kubernetes.yaml"] = kubernetes(service)
    if runs_dynamo(service) and (service.deployment.disaggregated or _by_mpi(service)):
        files["dynamo.yaml"] = dynamo(service)
    if runs_llm_d(service):
        files["llm-d-values.yaml"] = llm_d(service)
    for unit in service.units:
        if name := unit.own_file:
            machine = unit.cluster.machine
            words = f"The machine {machine.name!r} as it was planned with, from {machine.file or 'its description'}."
            files[name] = comment(words) + machine_text(machine)
    return {"README.md": readme(service, [*files], more_files or {}, one_node(service)), **files}


def _by_mpi(service: Service) -> bool:
    """TensorRT-LLM over several nodes is started by MPI: a script for a batch system, and Dynamo."""
    return any(u.nodes > 1 and u.flags.name == "trtllm" for u in service.units)


def check_folder(path: str | Path, *, force: bool = False) -> None:
    """Refuse a folder that cannot be written, before any work.

    Raises:
        InputError: a file, a folder with something in it (unless ``force``), or no parent.
    """
    folder = Path(path)
    check_target(folder, "out", folder=True)
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError(f"{str(path)!r} is not empty; --force replaces the files of the same names", field="out")


def _manifest(files: Mapping[str, str]) -> str:
    """The names that are written, each after the hash of its content."""
    return "".join(f"{sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(files.items()))


def _stale(folder: Path, names: list[str]) -> list[str]:
    """Files of an earlier call that are as it left them and are not among ``names``."""
    try:
        lines = read_text(folder / MANIFEST).splitlines()
    except InputError:  # none was written
        return []
    found = []
    for digest, _, name in (line.partition("  ") for line in lines):
        file = folder / name
        if name in names or not name or Path(name).name != name or file.is_symlink() or not file.is_file():
            continue
        with suppress(InputError):
            if sha256(read_bytes(file)).hexdigest() == digest:
                found.append(name)
    return found


def _exchange(made: Path, folder: Path, names: list[str]) -> None:
    """Move the files of ``made`` into the folder and its stale ones out; on any failure everything is as it was."""
    blocked = [n for n in names if (folder / n).is_dir() and not (folder / n).is_symlink()]
    if blocked:
        raise InputError(f"a folder is where the file {blocked[0]!r} should be", field="out")
    old = made / ".replaced"
    old.mkdir()
    gone = [n for n in [*names, *_stale(folder, names)] if (folder / n).exists() or (folder / n).is_symlink()]
    moved: list[tuple[Path, Path]] = []
    try:
        for begin, end in [*((folder / n, old / n) for n in gone), *((made / n, folder / n) for n in names)]:
            os.replace(begin, end)  # noqa: PTH105 - one atomic step
            moved.append((begin, end))
    except OSError:
        for begin, end in reversed(moved):
            os.replace(end, begin)  # noqa: PTH105
        raise


def write_folder(path: str | Path, files: Mapping[str, str], *, force: bool = False) -> None:
    """Write all files, or none.

    They are written beside the folder first (inside it, where it is a mounted one or nothing may be made beside it). A
    new or empty folder then takes their place in one rename; into a folder with other files, or a mounted one, they are
    moved one by one, and back when one cannot be. What an earlier call wrote, this one does not, and nobody has changed
    since, is removed; :data:`MANIFEST` lists it.

    Args:
        path: the folder.
        files: content by name; scripts (``.sh``) become executable.
        force: into a folder that is not empty.

    Raises:
        InputError: as :func:`check_folder`, or it cannot be written there.
        WriteError: the disk is full or fails.
    """
    check_folder(path, force=force)
    folder = Path(path).resolve()
    inside = folder.is_dir() and (folder.is_mount() or not os.access(folder.parent, os.W_OK))
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder if inside else folder.parent))
    except OSError as error:
        raise not_written(path, error, "out", how=f"write {'in' if inside else 'beside'}") from error
    try:
        made.chmod(0o755)
        for name, content in files.items():
            file = made / name
            file.write_text(content, encoding="utf-8")
            if name.endswith(".sh"):
                file.chmod(0o755)
        (made / MANIFEST).write_text(_manifest(files), encoding="utf-8")
        if folder.is_dir() and any(folder.iterdir()):
            _exchange(made, folder, [*files, MANIFEST])
        else:
            os.replace(made, folder)  # noqa: PTH105
    except OSError as error:
        raise not_written(path, error, "out") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
