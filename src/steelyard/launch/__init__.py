"""Launch files of a deployment: commands, containers, manifests, the load test."""

from steelyard.launch.folder import launch_files, write_folder
from steelyard.launch.service import Load, Service, service

__all__ = [
    "Load",
    "Service",
    "launch_files",
    "service",
    "write_folder",
]
