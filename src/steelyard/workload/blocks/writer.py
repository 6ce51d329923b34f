"""Writes the ops of a block that share sizes, count and name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.workload.op import Op, Size

__all__ = ["OpWriter"]

#: Ranks a rank is the sum of, with their coefficients: :attr:`Op.derived`.
Parts = tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class OpWriter:
    """Ops of one block: each needs a name, an einsum and what differs from the others."""

    prefix: str
    count: int
    sizes: Mapping[str, Size]
    block: str = "attention"
    iterative: tuple[str, ...] = ()
    """Ranks that run one after another, in every op."""

    def op(
        self,
        name: str,
        einsum: str,
        operands: tuple[str, ...],
        roles: tuple[str, ...],
        *,
        apply: str = "mul",
        reduce: str = "add",
        fuse: str = "",
        bits: Mapping[str, float] | None = None,
        domain: Mapping[tuple[str, ...], Size] | None = None,
        derived: Mapping[str, Parts] | None = None,
        more: Mapping[str, Size] | None = None,
    ) -> Op:
        """One op; ``derived`` names ranks that are sums of others, ``more`` has sizes of this op alone."""
        return Op(
            f"{self.prefix}.{name}" if self.prefix else name,
            einsum,
            {**self.sizes, **(more or {})},
            operands=operands,
            roles=roles,
            map=apply,
            reduce=reduce,
            domain=domain or {},
            derived=derived or {},
            iterative=self.iterative,
            count=self.count,
            fuse=f"{self.prefix}.{fuse}" if fuse else "",
            bits=bits or {},
            block=self.block,
        )

    def product(
        self,
        name: str,
        einsum: str,
        more: Mapping[str, Size] | None = None,
        *,
        weight: str = "",
        fuse: str = "",
        derived: Mapping[str, Parts] | None = None,
    ) -> Op:
        """A product with the weight ``w_NAME``, or one of another name."""
        operands = ("x", weight or f"w_{name}", "y")
        roles = ("activation", "weight", "activation")
        return self.op(name, einsum, operands, roles, fuse=fuse, derived=derived, more=more)

    def norm(self, name: str, width: int) -> Op:
        """A norm over a width of its own, with one vector of weights."""
        return self.op(
            name,
            "t r, r -> t r",
            ("x", "norm", "y"),
            ("activation", "weight", "activation"),
            apply="norm",
            reduce="none",
            bits={"norm": 16},
            more={"r": width},
        )

    def bias(self, name: str, index: str, derived: Mapping[str, Parts] | None = None) -> Op:
        """A bias added in the epilogue of the product before it: no traffic of its own."""
        return self.op(
            name,
            f"t {index}, {index} -> t {index}",
            ("x", "bias", "y"),
            ("activation", "weight", "activation"),
            apply="add",
            reduce="none",
            fuse=name,
            bits={"bias": 16, "x": 0, "y": 0},
            derived=derived,
        )

    def vectors(
        self,
        name: str,
        index: str,
        weight: str,
        *,
        apply: str = "mul",
        bits: float = 16,
        fuse: str = "",
        reads: str = "x",
        derived: Mapping[str, Parts] | None = None,
    ) -> Op:
        """An elementwise op of every token with a small parameter tensor of the ranks ``weight``.

        ``reads="y"`` takes what the op before it in the same kernel made.
        """
        return self.op(
            name,
            f"t {index}, {weight} -> t {index}",
            (reads, name, "y"),
            ("activation", "weight", "activation"),
            apply=apply,
            reduce="none",
            fuse=fuse,
            bits={name: bits},
            derived=derived,
        )
