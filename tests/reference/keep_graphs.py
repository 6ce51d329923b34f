"""Makes ``src/steelyard/catalogue/graphs``: graphs of common networks that no family builds, from installed libraries.

``python tests/reference/keep_graphs.py`` with torch, timm and torchvision installed. No weights are made or loaded.
Rows of the networks are written to ``src/steelyard/catalogue/nets/kept.toml``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from steelyard.errors import InputError
from steelyard.workload.ingest.kept_graph import packed
from steelyard.workload.nets import load_net

CATALOGUE = Path(__file__).parents[2] / "src/steelyard/catalogue"

TIMM = """
beit_base_patch16_224 cait_xxs24_224 coat_lite_tiny coatnet_0_rw_224 convmixer_768_32 convnextv2_tiny crossvit_9_240
cspdarknet53 cspresnet50 darknet53 davit_tiny deit3_small_patch16_224 dla102x dla34 dpn68 ecaresnet50t
edgenext_small efficientformer_l1 efficientformer_l3 efficientformer_l7 efficientformerv2_l efficientformerv2_s0
efficientformerv2_s1 efficientformerv2_s2 efficientnet_el efficientnet_em efficientnet_es efficientvit_b0
efficientvit_b1 efficientvit_b2 efficientvit_b3 efficientvit_l1 efficientvit_l2 efficientvit_l3 efficientvit_m0
efficientvit_m4 eva02_tiny_patch14_224 fastvit_ma36 fastvit_mci0 fastvit_mci1 fastvit_mci2 fastvit_s12 fastvit_sa12
fastvit_sa24 fastvit_sa36 fastvit_t12 fastvit_t8 fbnetv3_b focalnet_tiny_srf gcvit_xxtiny gernet_s ghostnet_100
ghostnetv2_100 hardcorenas_a hiera_tiny_224 hrnet_w18 hrnet_w48 inception_resnet_v2 inception_v4 lcnet_100
legacy_xception maxvit_tiny_tf_224 mixer_b16_224 mixnet_l
mixnet_m mixnet_s mobilenetv4_conv_large mobilenetv4_hybrid_medium mobileone_s0 mobileone_s1 mobileone_s2
mobileone_s3 mobileone_s4 mobilevitv2_100 mvitv2_tiny nasnetalarge nest_tiny
nextvit_base nextvit_small nf_resnet50 nfnet_l0 pit_s_224 poolformer_s12 regnetz_b16 repghostnet_100 repvit_m0_9
repvit_m1 repvit_m1_0 repvit_m1_1 repvit_m1_5 repvit_m2_3 res2net50_26w_4s resmlp_12_224 resnest50d resnet50_clip
resnetv2_50 rexnet_100 selecsls60 sequencer2d_s skresnet50 starnet_s1 swiftformer_s swinv2_tiny_window8_256
tinynet_a tinynet_c tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_small vit_base_patch16_siglip_224
vit_small_patch14_dinov2 volo_d1_224 vovnet39a xception41 xcit_tiny_12_p16_224
""".split()  # noqa: SIM905 - a list of many names
TORCHVISION = """
deeplabv3_mobilenet_v3_large deeplabv3_resnet50 fasterrcnn_mobilenet_v3_large_fpn fcn_resnet50
lraspp_mobilenet_v3_large mc3_18 r2plus1d_18 r3d_18 ssd300_vgg16 ssdlite320_mobilenet_v3_large
""".split()  # noqa: SIM905 - a list of many names
ALIASES = {"efficientformer_l1": "efficientformer"}


def keep(library: str, name: str) -> str:
    """One graph kept; its row of the catalogue."""
    graph = load_net(f"{library}:{name}")
    path = CATALOGUE / "graphs" / f"{name}.json.gz"
    path.write_bytes(packed(graph))
    image = next(t for t in graph.tensors if t.role == "input")
    macs, parameters = (
        f"{n:.4g}".replace("e+0", "e").replace("e+", "e") for n in (float(graph.macs()), graph.parameters)
    )
    also = f'\naliases = ["{ALIASES[name]}"]' if name in ALIASES else ""
    size = f"\nsize = {list(image.shape[-2:])}" if image.shape[-2:] != (224, 224) else ""
    return (
        f'[[net]]\nname = "{name}"{size}\nmacs = {macs}\nparameters = {parameters}\nsource = "{graph.source}"{also}\n'
    )


def main() -> None:
    """Make all, or those named."""
    (CATALOGUE / "graphs").mkdir(exist_ok=True)
    rows = [
        "# Graphs kept in ../graphs, made by tests/reference/keep_graphs.py.\n"
        "# macs: multiply-accumulates of one item, products alone; parameters: learned numbers.\n"
    ]
    for library, names in (("timm", TIMM), ("torchvision", TORCHVISION)):
        for name in sorted(names):
            try:
                rows.append(keep(library, name))
            except InputError as error:
                print(f"{library}:{name}: {error}", file=sys.stderr)
    (CATALOGUE / "nets/kept.toml").write_text("\n".join(rows))


if __name__ == "__main__":
    main()
