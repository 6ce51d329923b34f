"""Launch files of a deployment: commands, containers, manifests, the load test, and a plan that can be replayed."""

from steelyard.launch.folder import launch_files, write_folder
from steelyard.launch.planfile import SCHEMA, Replay, deployment_text, read_deployment
from steelyard.launch.service import Load, Service, service

__all__ = [
    "SCHEMA",
    "Load",
    "Replay",
    "Service",
    "deployment_text",
    "launch_files",
    "read_deployment",
    "service",
    "write_folder",
]
