"""Networks from image to image: ESPCN (Shi 2016), FSRCNN (Dong 2016), VDSR (Kim 2016), DnCNN (Zhang 2017), SESR
(Bhardwaj 2022, as deployed)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder

__all__ = ["DnCnn", "Espcn", "Fsrcnn", "OneConv", "Sesr", "Vdsr"]


@dataclass(frozen=True, slots=True)
class OneConv:
    """A convolution alone, without anything laid around its image, as benchmarks of convolutions run it."""

    inputs: int = 64
    outputs: int = 64
    kernel: int = 3
    stride: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        return net.conv(net.image(self.inputs, size), self.outputs, self.kernel, self.stride, 0)


@dataclass(frozen=True, slots=True)
class Espcn:
    """Three convolutions at the small size; the last one's channels become pixels."""

    factor: int = 2
    channels: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.act(net.conv(net.image(self.channels, size), 64, 5, bias=True), "tanh", inplace=False)
        x = net.act(net.conv(x, 32, 3, bias=True), "tanh", inplace=False)
        return net.pixel_shuffle(net.conv(x, self.channels * self.factor**2, 3, bias=True), self.factor)


@dataclass(frozen=True, slots=True)
class Fsrcnn:
    """Features, fewer of them, a few 3x3 among those, as many as before, and a deconvolution; slopes are learned."""

    width: int = 56
    narrow: int = 12
    depth: int = 4
    factor: int = 2
    channels: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = _rectified(net, net.conv(net.image(self.channels, size), self.width, 5, bias=True))
        x = _rectified(net, net.conv(x, self.narrow, 1, bias=True))
        for _ in range(self.depth):
            x = _rectified(net, net.conv(x, self.narrow, 3, bias=True))
        x = _rectified(net, net.conv(x, self.width, 1, bias=True))
        return net.deconv(x, self.channels, 9, self.factor, 4, extra=self.factor - 1)


@dataclass(frozen=True, slots=True)
class Vdsr:
    """3x3 convolutions at the large size, to which the image was brought before; they find what is added to it."""

    depth: int = 20
    width: int = 64
    channels: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        image = net.image(self.channels, size)
        x = net.relu(net.conv(image, self.width, 3))
        for _ in range(self.depth - 2):
            x = net.relu(net.conv(x, self.width, 3))
        return net.add(image, net.conv(x, self.channels, 3))


@dataclass(frozen=True, slots=True)
class DnCnn:
    """3x3 convolutions that find the noise, which is taken off the image."""

    depth: int = 20
    width: int = 64
    channels: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        image = net.image(self.channels, size)
        x = net.relu(net.conv(image, self.width, 3))
        for _ in range(self.depth - 2):
            x = net.conv_norm(x, self.width, 3)
        return net.binary("sub", image, net.conv(x, self.channels, 3))


@dataclass(frozen=True, slots=True)
class Sesr:
    """Blocks that train wide and are deployed as one 3x3 each, between two 5x5; two long shortcuts."""

    blocks: int = 5
    width: int = 16
    factor: int = 2
    channels: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        image = net.image(self.channels, size)
        first = x = _rectified(net, net.conv(image, self.width, 5))
        for _ in range(self.blocks):
            x = _rectified(net, net.conv(x, self.width, 3))
        x = net.conv(net.add(x, first), self.channels * self.factor**2, 5)
        beside = image if self.channels == 1 else net.concat([image] * self.factor**2)
        return net.pixel_shuffle(net.add(x, beside), self.factor)


def _rectified(net: Builder, x: int) -> int:
    """A rectifier with a learned slope by channel."""
    return net.node("prelu", (x, net.weight(net.channels(x))), net.shape(x))
