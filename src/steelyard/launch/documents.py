"""YAML and comments of the generated files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.errors import printable

__all__ = ["comment", "yaml_text"]


def comment(*lines: str, mark: str = "#") -> str:
    """Comment lines, each one line whatever is in it."""
    return "".join(f"{mark} {printable(x)}".rstrip() + "\n" for x in lines)


def yaml_text(*documents: Mapping[str, Any] | Sequence[Any], head: str = "") -> str:
    """Documents as YAML, keys in the order given, no aliases; ``head`` is put before the first."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> Any:
        style = "|" if "\n" in value and value.isprintable() is False and not value.startswith((" ", "\n")) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Plain.add_representer(str, text)
    parts = [
        yaml.dump(x, Dumper=Plain, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110)
        for x in documents
    ]
    return head + "---\n".join(parts)
