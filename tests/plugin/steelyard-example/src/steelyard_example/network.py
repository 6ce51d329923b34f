"""A family of image networks: convolutions over a shrinking picture, then a classifier. No language model at all."""

from steelyard.workload.fixed import FixedGraph
from steelyard.workload.op import Op

WEIGHT = ("activation", "weight", "activation")


def picture_net(config):
    """Read ``{"model_type": "picture_net", "stages": 3, "channels": 64, "side": 56}``."""
    stages, channels, side = (int(config[name]) for name in ("stages", "channels", "side"))
    ops = []
    for i in range(stages):
        sizes = {"b": 1, "c": channels, "p": side >> i, "q": side >> i, "r": 3, "s": 3, "k": channels}
        ops.append(Op(f"stage{i}.conv", "b c p+r q+s, k c r s -> b k p q", sizes, roles=WEIGHT, block="conv"))
    ops.append(Op("classes", "b d, d o -> b o", {"b": 1, "d": channels, "o": 1000}, roles=WEIGHT, block="head"))
    return FixedGraph("picture_net", tuple(ops), model_type="picture_net", depth=stages)
