"""Residual networks: He et al. 2016 with the stride in the 3x3 (v1.5), ResNeXt, Wide ResNet, squeeze and excitation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import times

__all__ = ["ResNet"]


@dataclass(frozen=True, slots=True)
class ResNet:
    """Stages of residual blocks, four after a 7x7 (or three 3x3) and a pool; ``stem = "small"``: after one 3x3 alone.

    ``groups`` and ``base_width`` make ResNeXt (32 x 4) and Wide (base 128) of the bottleneck; ``reduce``: channels of
    squeeze and excitation are cut by so much (0: none); ``pooled``: shortcuts pool before their 1x1, as in
    ResNet-D; ``strided``: the block of a stage that halves the image, and where its stride is. The paper's is the
    first, in its 1x1; libraries have it in the 3x3 ("v1.5"); TensorFlow's older ones at the end of a stage. ``turned``:
    the 3x3 of a bottleneck after the first stage are sums of so many kernels, each turned by an angle and weighed as
    an image asks (adaptive rotated convolution, Pu et al., ICCV 2023); 0: kernels are as learned.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    base_width: int = 64
    stem: Literal["7x7", "3x3", "small"] = "7x7"
    stem_width: int = 32
    pooled: bool = False
    reduce: int = 0
    strided: Literal["first 3x3", "first 1x1", "last 3x3"] = "first 3x3"
    turned: int = 0
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        return net.classify(self.stages(net, net.image(self.channels, size))[-1], self.classes)

    def stages(self, net: Builder, x: int) -> list[int]:
        """What each stage puts out for an image."""
        if self.stem == "7x7":
            x = net.conv_norm(x, 64, 7, 2)
        elif self.stem == "3x3":
            x = net.conv_norm(x, self.stem_width, 3, 2)
            x = net.conv_norm(net.conv_norm(x, self.stem_width, 3), 64, 3)
        x = net.conv_norm(x, self.widths[0], 3) if self.stem == "small" else net.max_pool(x, 3, 2, 1)
        made = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for i in range(depth):
                with net.within(f"layer{stage + 1}.{i}"):
                    if self.strided == "last 3x3":
                        halves = stage < len(self.depths) - 1 and i == depth - 1
                    else:
                        halves = stage > 0 and not i
                    x = self._block(net, x, width, 2 if halves else 1)
            made.append(x)
        return made

    def _block(self, net: Builder, x: int, width: int, stride: int) -> int:
        out = width * 4 if self.bottleneck else width
        inner = width * self.base_width // 64 * self.groups
        if self.bottleneck:
            one, three = (stride, 1) if self.strided == "first 1x1" else (1, stride)
            y = net.conv_norm(x, inner, 1, one)
            if self.turned and width > self.widths[0]:
                y = net.relu(net.norm(self._turned(net, y, inner, three)))
            else:
                y = net.conv_norm(y, inner, 3, three, groups=self.groups)
            y = net.conv_norm(y, out, act="")
        else:
            y = net.conv_norm(x, width, 3, stride)
            y = net.conv_norm(y, out, 3, act="")
        if self.reduce:
            y = net.squeeze(y, out // self.reduce)
        if net.channels(x) == out and self.strided == "last 3x3":
            x = net.max_pool(x, 1, stride) if stride > 1 else x
        elif stride != 1 or net.channels(x) != out:
            if self.pooled:
                x = net.avg_pool(x, stride, stride, up=True) if stride > 1 else x
                x = net.conv_norm(x, out, act="")
            else:
                x = net.conv_norm(x, out, 1, stride, act="")
        return net.relu(net.add(y, x, inplace=True))

    def _turned(self, net: Builder, x: int, channels: int, stride: int) -> int:
        """A 3x3 convolution whose kernel is made for each image; angles and weights come from a depthwise layer."""
        batch, c, _, _ = net.shape(x)
        n = self.turned
        seen = net.permute(net.conv(x, net.channels(x), 3, groups=net.channels(x)), 0, 2, 3, 1)
        seen = net.mean(net.relu(net.layer_norm(seen)), (1, 2), keep=False)
        angles = net.act(net.linear(seen, n, bias=False), "tanh", inplace=False)
        shares = net.view(net.sigmoid(net.linear(seen, n)), batch, n, 1, 1)
        turns = net.mul(net.expand(net.view(angles, batch, n, 1, 1), batch, n, 9, 9), shares)
        turns = net.view(net.copy(net.permute(turns, 0, 2, 1, 3)), batch, 9, n * 9)
        kernels = net.matmul(turns, net.weight(n * 9, times(c, channels)))
        kernels = net.view(net.copy(net.permute(kernels, 0, 2, 1)), times(batch, channels), c, 3, 3)
        return net.conv_with(x, kernels, channels, 3, stride)
