"""``qualcomm_aihub/latency_snapdragon.csv``: networks on Hexagon NPUs through three runtimes, batch 1.

Rows whose parts mostly ran on the CPU or the GPU are not the NPU's and are left out; so are mixed precisions. Rows of
``onnx`` ran in ONNX Runtime on top of QNN, those of ``tflite`` through its delegate; compiled contexts are QNN's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.edge import EdgeRow, compare

__all__ = ["NETS", "questions", "read"]

#: Runtimes by what the table calls them.
RUNTIMES = {
    "qnn_dlc": "qnn",
    "qnn_context_binary": "qnn",
    "tflite": "tflite",
    "onnx": "onnxruntime",
    "precompiled_qnn_onnx": "onnxruntime",
}
#: Precisions by what the table calls them: 16-bit activations are integers, as wide as fp16.
PRECISIONS = {"float": "fp16", "w8a8": "int8", "w8a16": "w8a16"}
#: Layers outside the NPU (casts of inputs and outputs) up to which a pass is the NPU's.
FALLS_BACK = 2
#: Graphs by the table's models. Those whose stated parameters are not the graph's are other networks and left out
#: (DistilBERT 11 M, SESR 0.34 M, YOLOv3 11.5 M). EfficientNet B4 and V2-S are stated with the sizes they were trained
#: at; they take the time of 224 x 224, which the table states of its other classifiers, those trained at others too.
NETS = {
    "beit": "beit_base_patch16_224@224",
    "bert_base_uncased_hf": "bert_base@384",
    "convnext_base": "convnext_base@224",
    "convnext_tiny": "convnext_tiny@224",
    "densenet121": "densenet121@224",
    "dla102x": "dla102x@224",
    "efficientformer": "efficientformer_l1@224",
    "efficientnet_b0": "efficientnet_b0@224",
    "efficientnet_b4": "efficientnet_b4@224",
    "efficientnet_v2_s": "efficientnetv2_s@224",
    "efficientvit_b2_cls": "efficientvit_b2@224",
    "efficientvit_l2_cls": "efficientvit_l2@224",
    "electra_bert_base_discrim_google": "electra_base_discriminator@384",
    "fcn_resnet50": "fcn_resnet50@224",
    "googlenet": "googlenet@224",
    "inception_v3": "inception_v3@224",
    "levit": "levit_128s@224",
    "mnasnet05": "mnasnet_050@224",
    "mobile_vit": "mobilevit_s@224",
    "mobilenet_v2": "mobilenetv2_100@224",
    "mobilenet_v3_large": "mobilenetv3_large_100@224",
    "mobilenet_v3_small": "mobilenetv3_small_100@224",
    "nasnet": "nasnetalarge@224",
    "regnet": "regnetx_032@224",
    "regnet_y_800mf": "regnety_008@224",
    "resnet101": "resnet101@224",
    "resnet18": "resnet18@224",
    "resnet50": "resnet50@224",
    "resnet_2plus1d": "r2plus1d_18@112",
    "resnet_3d": "r3d_18@112",
    "resnet_mixed": "mc3_18@112",
    "resnext101": "resnext101_32x8d@224",
    "resnext50": "resnext50_32x4d@224",
    "sequencer2d": "sequencer2d_s@224",
    "shufflenet_v2": "shufflenet_v2_x0_5@224",
    "squeezenet1_1": "squeezenet1_1@224",
    "unet_segmentation": "unet@224",
    "vit": "vit_base_patch16_224@224",
    "wideresnet50": "wide_resnet50_2@224",
    "yolov11_det": "yolo11n@640",
    "yolov5": "yolov5m@640",
    "yolov8_det": "yolov8n@640",
    "yolov7": "yolov7_tiny@640",
    "yolov8_seg": "yolov8n_seg@640",
    "yolov11_seg": "yolo11n_seg@640",
    "yolox": "yolox_s@640",
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time of a pass by runtime and precision."""
    for path in ask.files(folder, "latency_snapdragon*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from compare(ask, path.stem, questions(path))


def questions(path: Path) -> list[EdgeRow]:
    """The rows that ran on the NPU in one precision."""
    names = ["model", "component", "precision", "device", "runtime", "inference_time_ms", "primary_compute_unit"]
    frame = read_frame(path, names, ["layers_gpu", "layers_cpu"])
    found: list[EdgeRow] = []
    for row in frame.itertuples():
        precision = PRECISIONS.get(str(row.precision))
        if row.primary_compute_unit != "NPU" or precision is None or not row.inference_time_ms > 0:
            continue
        runtime = RUNTIMES[str(row.runtime)]
        elsewhere = max(0.0, float(row.layers_cpu)) + max(0.0, float(row.layers_gpu))
        found.append(
            EdgeRow(
                model=str(row.model),
                net=NETS.get(str(row.model), ""),
                device=str(row.device),
                runtime=runtime,
                precision=precision,
                time_s=float(row.inference_time_ms) * 1e-3,
                phase=f"{runtime} {row.precision}",
                why="" if not elsewhere > FALLS_BACK else f"{elsewhere:.0f} of its layers ran on the CPU or GPU",
            )
        )
    return found
