"""The folder of launch files: what goes in, and writing it whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from steelyard.errors import InputError
from steelyard.launch.compose import compose, one_node
from steelyard.launch.graphs import dynamo, llm_d, runs_dynamo, runs_llm_d
from steelyard.launch.kubernetes import kubernetes
from steelyard.launch.readme import readme
from steelyard.launch.scripts import scripts
from steelyard.launch.service import Service

__all__ = ["check_folder", "launch_files", "write_folder"]


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
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder, got the file {str(path)!r}", field="out")
    if not folder.resolve().parent.is_dir():
        raise InputError(f"no folder {str(folder.resolve().parent)!r}", field="out")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError(f"{str(path)!r} is not empty; --force replaces the files of the same names", field="out")


def write_folder(path: str | Path, files: Mapping[str, str], *, force: bool = False) -> None:
    """Write all files, or none.

    They are written beside the folder first. A new or empty folder then takes their place in one rename; into a folder
    with other files they are moved one by one, which only a crash of the machine can interrupt.

    Args:
        path: the folder.
        files: content by name; scripts (``.sh``) become executable.
        force: into a folder that is not empty.

    Raises:
        InputError: as :func:`check_folder`, or it cannot be written.
    """
    check_folder(path, force=force)
    folder = Path(path).resolve()
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write beside {str(path)!r}: {error.strerror or error}", field="out") from error
    try:
        made.chmod(0o755)
        for name, content in files.items():
            file = made / name
            file.write_text(content, encoding="utf-8")
            if name.endswith(".sh"):
                file.chmod(0o755)
        if folder.is_dir() and any(folder.iterdir()):
            for name in files:
                os.replace(made / name, folder / name)  # noqa: PTH105 - one atomic step
        else:
            os.replace(made, folder)  # noqa: PTH105
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}", field="out") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
