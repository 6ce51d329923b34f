"""``rockchip_npu/rknn_model_zoo_fps.csv``: networks on Rockchip's NPUs, one core, batch 1."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.edge import EdgeRow, compare

__all__ = ["NETS", "questions", "read"]

#: Graphs by the table's models; CLIP's picture encoder is the one of patches of 32.
NETS = {
    "mobilenetv2-12": "mobilenetv2_100@224",
    "resnet50-v2-7": "resnetv2_50@224",
    "yolov5s_relu": "yolov5s@640",
    "yolov5n": "yolov5n@640",
    "yolov5s": "yolov5s@640",
    "yolov5m": "yolov5m@640",
    "yolov8n": "yolov8n@640",
    "yolov8s": "yolov8s@640",
    "yolov8m": "yolov8m@640",
    "yolo11n": "yolo11n@640",
    "yolo11s": "yolo11s@640",
    "yolo11m": "yolo11m@640",
    "clip_images": "vit_base_patch32_clip_224@224",
    "yolov7-tiny": "yolov7_tiny@640",
    "yolov7": "yolov7@640",
    "yolox_s": "yolox_s@640",
    "yolox_m": "yolox_m@640",
    "yolov5n-seg": "yolov5n_seg@640",
    "yolov5s-seg": "yolov5s_seg@640",
    "yolov5m-seg": "yolov5m_seg@640",
    "yolov8n-seg": "yolov8n_seg@640",
    "yolov8s-seg": "yolov8s_seg@640",
    "yolov8m-seg": "yolov8m_seg@640",
    "yolov8n-pose": "yolov8n_pose@640",
    "clip_text": "clip_vit_b_text@20",
}
#: Devices by the table's words: two chips of one NPU, and one core of several.
DEVICES = {
    "RK3566 RK3568": "rk3568",
    "RK3588 single_core": "rk3588_single_core",
    "RK3576 single_core": "rk3576_single_core",
}
PRECISIONS = {"INT8": "int8", "FP16": "fp16"}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time of a pass."""
    for path in ask.files(folder, "rknn_model_zoo*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from compare(ask, path.stem, questions(path))


def questions(path: Path) -> list[EdgeRow]:
    """The rows that state a rate."""
    frame = read_frame(path, ["model", "dtype", "soc", "fps"])
    found: list[EdgeRow] = []
    for row in frame.itertuples():
        soc = " ".join(str(row.soc).split())
        if row.fps > 0:
            found.append(
                EdgeRow(
                    model=str(row.model),
                    net=NETS.get(str(row.model), ""),
                    device=DEVICES.get(soc, soc),
                    runtime="rknn",
                    precision=PRECISIONS[str(row.dtype)],
                    time_s=1.0 / float(row.fps),
                    phase=str(row.dtype),
                )
            )
    return found
