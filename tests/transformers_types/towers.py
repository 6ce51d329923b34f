"""Counts the towers of transformers' models on the meta device, beside :mod:`tests.transformers_types.count`.

``python -m tests.transformers_types.towers [TYPE ...]`` (where torch and transformers are installed) writes
``towers.json``: of each type the config keys that our answer depends on, and the parameters of the towers that
transformers builds from it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.errors import SteelyardError
from steelyard.workload.families import read_config
from steelyard.workload.families._tower_rows import MODELS
from tests.transformers_types.count import _SPEECH, _TOWERS, needed, small, types

COUNTED = Path(__file__).with_name("towers.json")
#: Speakers beside a model that listens, and layers that guess tokens.
_OTHER = re.compile(r"talker|token2wav|code2wav|mtp")
#: Types of which a part is not described, or whose default config is no model: its parts do not fit together.
_UNSOUND = ("molmo2", "muse_spark", "ovis2")


def towers(config: Mapping[str, Any]) -> int:
    """Parameters of the towers as we read them."""
    return sum(tower.parameters for tower in read_config(config).towers)


def built(config: Any, model_class: Any) -> int:
    """Parameters of the towers that transformers builds."""
    import torch

    with torch.device("meta"):
        model = model_class._from_config(config) if hasattr(model_class, "_from_config") else model_class(config)
    names = re.compile(_TOWERS.pattern + r"|^(model\.)?encoder\.") if config.model_type in _SPEECH else _TOWERS
    sizes = {n: p.shape for n, p in model.named_parameters() if names.search(n) and not _OTHER.search(n)}
    return sum(math.prod(shape) for shape in sizes.values())


def main(names: list[str]) -> None:
    """Count all types, or those named, and write the table."""
    table = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
    for name, model_class in sorted(types().items()):
        if name not in MODELS or name in _UNSOUND or (names and name not in names):
            continue
        try:
            config = small(name)
            stated = json.loads(json.dumps(config.to_dict(), default=str))
            theirs = built(config, model_class)
        except Exception as error:
            print(name, "not built:", str(error)[:80])
            continue
        try:
            ours = towers(stated)
        except SteelyardError as error:
            print(name, "refused:", str(error)[:80])
            continue
        if not theirs:
            continue
        print(name, ours, theirs, "" if ours == theirs else f"{ours - theirs:+}")
        table[name] = {"config": needed(stated, towers, lambda key: key.endswith("_config")), "parameters": theirs}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(table.items()))
    COUNTED.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
