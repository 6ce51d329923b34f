"""``hailo_npu/hailo_model_zoo_fps.csv``: frames per second of networks on Hailo's chips, at batches of 1 and 8.

A rate is of frames that follow one another, so a pass over a batch takes batch / rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.edge import EdgeRow, compare

__all__ = ["NETS", "questions", "read"]

#: Graphs by the table's networks, which end in marks of the zoo's lists.
NETS = {
    "davit_tiny": "davit_tiny@224",
    "deit_base": "deit_base_patch16_224@224",
    "deit_small": "deit_small_patch16_224@224",
    "deit_tiny": "deit_tiny_patch16_224@224",
    "efficientformer_l1": "efficientformer_l1@224",
    "efficientnet_l": "efficientnet_el@300",
    "efficientnet_lite0": "efficientnet_lite0@224",
    "efficientnet_lite1": "efficientnet_lite1@240",
    "efficientnet_lite2": "efficientnet_lite2@260",
    "efficientnet_lite3": "efficientnet_lite3@280",
    "efficientnet_lite4": "efficientnet_lite4@300",
    "efficientnet_m": "efficientnet_em@240",
    "efficientnet_s": "efficientnet_es@224",
    "fastvit_sa12": "fastvit_sa12@224",
    "inception_v1": "googlenet@224",
    "levit128": "levit_128@224",
    "levit192": "levit_192@224",
    "levit256": "levit_256@224",
    "levit384": "levit_384@224",
    "mobilenet_v1": "mobilenetv1_100@224",
    "mobilenet_v2_1.0": "mobilenetv2_100@224",
    "mobilenet_v2_1.4": "mobilenetv2_140@224",
    "nextvit_base": "nextvit_base@224",
    "nextvit_small": "nextvit_small@224",
    "poolformer_s12": "poolformer_s12@224",
    "regnetx_1.6gf": "regnetx_016@224",
    "regnetx_800mf": "regnetx_008@224",
    "repghost_1_0x": "repghostnet_100@224",
    "repghost_2_0x": "repghostnet_200@224",
    "repvgg_a1": "repvgg_a1@224",
    "repvgg_a2": "repvgg_a2@224",
    "resmlp12_relu": "resmlp_12_224@224",
    "resnet_v1_18": "resnet18@224",
    "resnet_v1_34": "resnet34@224",
    "resnet_v1_50": "resnet50@224",
    "resnext50_32x4d": "resnext50_32x4d@224",
    "squeezenet_v1.1": "squeezenet1_1@224",
    "swin_small": "swin_small_patch4_window7_224@224",
    "swin_tiny": "swin_tiny_patch4_window7_224@224",
    "vit_base": "vit_base_patch16_224@224",
    "vit_small": "vit_small_patch16_224@224",
    "vit_tiny": "vit_tiny_patch16_224@224",
    "clip_vit_b_16_image_encoder": "vit_base_patch16_clip_224@224",
    "clip_vit_b_32_image_encoder": "vit_base_patch32_clip_224@224",
    "clip_vit_l_14_laion2B_image_encoder": "vit_large_patch14_clip_224@224",
    "person_attr_resnet_v1_18": "resnet18@224",
    "siglip_b_16_image_encoder": "vit_base_patch16_siglip_224@224",
    "r3d_18": "r3d_18@112",
    "yolov11l": "yolo11l@640",
    "yolov11m": "yolo11m@640",
    "yolov11n": "yolo11n@640",
    "yolov11s": "yolo11s@640",
    "yolov11x": "yolo11x@640",
    "yolov3": "yolov3@608",
    "yolov3_416": "yolov3@416",
    "yolov3_gluon": "yolov3@608",
    "yolov3_gluon_416": "yolov3@416",
    "yolov5m": "yolov5m@640",
    "yolov5m_6.1": "yolov5m@640",
    "yolov5s": "yolov5s@640",
    "yolov8l": "yolov8l@640",
    "yolov8m": "yolov8m@640",
    "yolov8n": "yolov8n@640",
    "yolov8s": "yolov8s@640",
    "yolov8x": "yolov8x@640",
    "dncnn3": "dncnn3@321x481",
    "dncnn_color_blind": "dncnn_color_blind@321x481",
    "yolov5l_seg": "yolov5l_seg@640",
    "yolov5m_seg": "yolov5m_seg@640",
    "yolov5n_seg": "yolov5n_seg@640",
    "yolov5s_seg": "yolov5s_seg@640",
    "yolov8m_seg": "yolov8m_seg@640",
    "yolov8n_seg": "yolov8n_seg@640",
    "yolov8s_seg": "yolov8s_seg@640",
    "ssd_mobilenet_v1": "ssd_mobilenet_v1@300",
    "ssd_mobilenet_v2": "ssd_mobilenet_v2@300",
    "tiny_yolov3": "yolov3_tiny@416",
    "yolov7": "yolov7@640",
    "yolov7_tiny": "yolov7_tiny@640",
    "yolox_l_leaky": "yolox_l@640",
    "yolox_s_leaky": "yolox_s@640",
    "yolox_tiny": "yolox_tiny@416",
    "yolov8m_pose": "yolov8m_pose@640",
    "yolov8s_pose": "yolov8s_pose@640",
    "espcn_x2": "espcn_x2@156x240",
    "espcn_x3": "espcn_x3@104x160",
    "espcn_x4": "espcn_x4@78x120",
    "clip_resnet_50_text_encoder": "clip_vit_b_text@77",
    "clip_vit_b_16_text_encoder": "clip_vit_b_text@77",
    "clip_vit_b_32_text_encoder": "clip_vit_b_text@77",
    "clip_resnet_50_image_encoder": "resnet50_clip@224",
    "clip_vit_l_14_laion2B_text_encoder": "clip_vit_l_text@77",
    "clip_vit_l_14_text_encoder": "clip_vit_l_text@77",
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time of a pass over one frame and over eight."""
    for path in ask.files(folder, "hailo_model_zoo*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from compare(ask, path.stem, questions(path))


def questions(path: Path) -> list[EdgeRow]:
    """A row for each batch that was measured."""
    frame = read_frame(path, ["device", "network", "fps_b1", "fps_b8"])
    found: list[EdgeRow] = []
    for row in frame.itertuples():
        model = str(row.network).partition("|")[0].strip()
        for batch, rate in ((1.0, float(row.fps_b1)), (8.0, float(row.fps_b8))):
            if rate > 0:
                found.append(
                    EdgeRow(
                        model=model,
                        net=NETS.get(model, ""),
                        device=str(row.device),
                        runtime="hailo",
                        precision="int8",
                        time_s=batch / rate,
                        batch=batch,
                        phase=f"batch {batch:.0f}",
                    )
                )
    return found
