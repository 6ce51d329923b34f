"""``mobile_readme_tables/phone_jetson_latency.csv``: networks on an iPhone's Neural Engine, on Jetsons and an A100.

The tables of papers' repositories. Where an A100's batch is not stated the row cannot be asked; heads for segmentation
and the smaller text encoders have no graph here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.edge import EdgeRow, compare

__all__ = ["NETS", "questions", "read"]

#: Graphs by the table's models, without their size, which a column states.
NETS = {
    **{f"EfficientFormerV2-{s}": f"efficientformerv2_{s.lower()}" for s in ("S0", "S1", "S2", "L")},
    **{f"EfficientFormer-{s}": f"efficientformer_{s.lower()}" for s in ("L1", "L3", "L7")},
    **{f"FastViT-{s}": f"fastvit_{s.lower()}" for s in ("T8", "T12", "S12", "SA12", "SA24", "SA36", "MA36")},
    **{f"MobileOne-S{i}": f"mobileone_s{i}" for i in range(5)},
    **{f"RepViT-M{s}": f"repvit_m{s.replace('.', '_')}" for s in ("0.9", "1.0", "1.1", "1.5", "2.3")},
    **{f"EfficientViT-{s}": f"efficientvit_{s.lower()}" for s in ("B1", "B2", "B3", "L1", "L2", "L3")},
    **{f"MobileCLIP-S{i} image encoder": f"fastvit_mci{i}" for i in range(5)},
    **{f"MobileCLIP2-S{i} image encoder": f"fastvit_mci{i}" for i in range(5)},
    "MobileCLIP-B image encoder": "vit_base_mci_224",
    "MobileCLIP-B (LT) image encoder": "vit_base_mci_224",
    "MobileCLIP2-B image encoder": "vit_base_mci_224",
    "MobileCLIP-L/14 image encoder": "vit_large_patch14_clip_224",
    "MobileCLIP2-L/14 image encoder": "vit_large_patch14_clip_224",
    "EfficientNetV2-S": "efficientnetv2_s",
    "EfficientNetV2-M": "efficientnetv2_m",
    "MobileCLIP-B text encoder": "clip_vit_b_text",
    "MobileCLIP2-B text encoder": "clip_vit_b_text",
    "MobileCLIP-B (LT) text encoder": "clip_vit_b_text",
    "MobileCLIP-L/14 text encoder": "clip_vit_l_text",
    "MobileCLIP2-L/14 text encoder": "clip_vit_l_text",
}
#: Sizes where the table states none: MobileCLIP's papers.
SIZES = {"fastvit": "256", "vit": "224", "clip": "77"}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time of a pass."""
    for path in ask.files(folder, "phone_jetson*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from compare(ask, path.stem, questions(path))


def questions(path: Path) -> list[EdgeRow]:
    """The rows, rates as the time of a pass over their batch."""
    frame = read_frame(path, ["model", "device", "runtime", "precision", "metric", "value"], ["resolution", "batch"])
    found: list[EdgeRow] = []
    for row in frame.itertuples():
        name, size = NETS.get(str(row.model), ""), str(row.resolution)
        sides = size.split("x") if "x" in size else []
        if name and not sides:
            size = SIZES.get(name.partition("_")[0], "")
        elif len(set(sides)) == 1:
            size = sides[0]
        stated, value = float(row.batch), float(row.value)
        batch = stated if stated > 0 else 1.0
        rate, phone = str(row.metric) == "throughput_img_s", str(row.runtime).startswith("CoreML")
        found.append(
            EdgeRow(
                model=str(row.model),
                net=f"{name}@{size}" if name else "",
                device=str(row.device),
                runtime="coreml" if phone else "tensorrt",
                precision="fp16",
                time_s=batch / value if rate else value * 1e-3,
                batch=batch,
                phase="coreml" if phone else "tensorrt",
                why="" if stated > 0 else "the batch is not stated",
            )
        )
    return found
