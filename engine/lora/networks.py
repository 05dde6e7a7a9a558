"""What a LoRA file holds for one layer: how it changes the layer's weight W.

    LoRA, LoCon   D = s up down                     Hu et al., arXiv 2106.09685
    LoHa          D = s (w1_a w1_b) * (w2_a w2_b)   element by element; Hyeon-Woo et al., arXiv 2108.06098
    LoKr          D = s w1 kron w2                  each whole or w_a w_b; Yeh et al., arXiv 2309.14859
    DoRA          m (W + D) / |W + D| - W           for any D of these; Liu et al., arXiv 2402.09353

with s = alpha / rank, and |.| over all that a magnitude in m stands for. Convolutions are matrices of (out, in k k). A
Tucker core is multiplied into the factor that it stands before, which changes nothing but the size: the families of
tensors above are all there are afterwards. Roles are called as LyCORIS calls its tensors. Knows nothing of files.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape = tuple[int, ...]

# The factors of every kind; each is there as one of the alternatives: a whole matrix or two that it is the product of.
_FACTORS: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "LoRA": ((("lora_up", "lora_down"),),),
    "LoHa": ((("hada_w1_a", "hada_w1_b"),), (("hada_w2_a", "hada_w2_b"),)),
    "LoKr": ((("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")), (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))),
}
_COMBINE = {"LoHa": "mul", "LoKr": "kron"}
_CORES = {"lora_down": "lora_mid", "hada_w1_b": "hada_t1", "hada_w2_b": "hada_t2", "lokr_w2_b": "lokr_t2"}

DORA_SCALE = "dora_scale"
"""LyCORIS's magnitudes: (out, 1, ...), or (1, in, 1, ...) in most files."""

MAGNITUDE_VECTOR = "lora_magnitude_vector"
"""peft's magnitudes, always of the outputs: (out,), or (1, out, 1, 1) for convolutions."""

ROLES = tuple(
    sorted(
        {role for factors in _FACTORS.values() for alternatives in factors for roles in alternatives for role in roles}
        | {*_CORES.values(), DORA_SCALE, MAGNITUDE_VECTOR, "alpha"}
    )
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """The change to a weight of some shape. `factors` hold their matrices by role, `magnitude` is (out, 1, ...) or
    (1, in, 1, ...), with as many dimensions as the weight, and None but for DoRA."""

    kind: str
    factors: "tuple[dict[str, Tensor], ...]"
    shape: Shape
    rank: int
    alpha: float
    magnitude: "Tensor | None" = None

    def matrix(self, device: "torch.device | str") -> "Tensor":
        """D / s as a matrix of (out, in k k), in single precision."""
        import torch

        matrices = [
            reduce(torch.matmul, [matrix.to(device, torch.float32) for matrix in factor.values()])
            for factor in self.factors
        ]
        return reduce(getattr(torch, _COMBINE[self.kind]), matrices) if len(matrices) > 1 else matrices[0]

    def delta(self, weight: "Tensor", strength: float = 1.0) -> "Tensor":
        """The whole change to `weight` at that strength, on its device in single precision."""
        if self.magnitude is None:
            return self._change(weight, strength)
        exact = _exact(weight)
        return ((exact + self._change(weight, strength)) * self.gain(weight, strength) - exact).float()

    def gain(self, weight: "Tensor", strength: float = 1.0) -> "Tensor":
        """DoRA's m / |W + D|, shaped as the magnitude. As in peft, the strength is a factor of D."""
        from torch.linalg import vector_norm

        assert self.magnitude is not None
        along = [dimension for dimension, size in enumerate(self.magnitude.shape) if size == 1]
        changed = _exact(weight) + self._change(weight, strength)
        return self.magnitude.to(changed) / vector_norm(changed, dim=along, keepdim=True)

    def _change(self, weight: "Tensor", strength: float) -> "Tensor":
        """D."""
        return self.matrix(weight.device).reshape(self.shape) * (strength * self.alpha / self.rank)

    def tensors(self) -> "dict[str, Tensor]":
        """The factors by role in the shapes of their files: beside convolutions, those of convolutions."""
        kernel = self.shape[2:]
        tails = {"lora_down": self.shape[1:], "lora_up": (-1, *(1 for _ in kernel)), "lokr_w2": (-1, *kernel)}
        return {
            role: matrix.reshape(len(matrix), *tails.get(role, matrix.shape[1:]))
            for factor in self.factors
            for role, matrix in factor.items()
        }


def _exact(weight: "Tensor") -> "Tensor":
    """In double precision, for a change is the difference of weights that are nearly alike. Apple's GPUs have none."""
    return weight.float() if weight.device.type == "mps" else weight.double()


def network(tensors: "Mapping[str, Tensor]", shape: Shape, *, rank: int, alpha: float) -> Network:
    """The network for a weight of that shape from its tensors by role, which are `complete` and `fits` holds of."""
    found = _choices(tensors)
    assert found is not None
    kind, choices = found
    return Network(
        kind=kind,
        factors=tuple(_factor(tensors, roles) for roles in choices),
        shape=shape,
        rank=rank,
        alpha=alpha,
        magnitude=_magnitude(tensors, shape),
    )


def of_rows(net: Network, rows: "slice | Tensor") -> Network:
    """The network for these of the outputs, in this order."""
    import torch

    outputs = net.shape[0]
    same: dict[str, Any] = {"shape": (len(torch.arange(outputs)[rows]), *net.shape[1:])}
    if net.magnitude is not None and len(net.magnitude) == outputs:
        same["magnitude"] = net.magnitude[rows]
    if net.kind == "LoKr":  # some rows of a Kronecker product are none, and whole matrices go by no alpha in files
        whole = (net.matrix("cpu") * (net.alpha / net.rank))[rows].contiguous()
        factors = ({"lokr_w1": torch.ones(1, 1)}, {"lokr_w2": whole})
        return replace(net, factors=factors, rank=1, alpha=1.0, **same)
    outer = ("lora_up", "hada_w1_a", "hada_w2_a")
    factors = tuple({role: m[rows].contiguous() if role in outer else m for role, m in f.items()} for f in net.factors)
    return replace(net, factors=factors, **same)


def with_halves_swapped(net: Network) -> Network:
    """The network with the two halves of its outputs in each other's place."""
    import torch

    return of_rows(net, torch.arange(net.shape[0]).roll(net.shape[0] // 2))


def split(net: Network, sizes: Sequence[int]) -> list[Network | None]:
    """The networks for the blocks of `sizes` outputs that `net` is for, one below the other; None for a block that it
    leaves as it is. Magnitudes have to be those of outputs."""
    parts: list[Network | None] = []
    for first, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        part = of_rows(net, slice(first, first + size))
        if net.kind == "LoRA":
            (factor,) = part.factors
            up, down = factor["lora_up"], factor["lora_down"]
            used = up.abs().amax(dim=0) > 0
            if not used.any() and net.magnitude is None:
                parts.append(None)
                continue
            if 0 < (count := int(used.sum())) < net.rank:  # what `join` has put side by side
                halves = {"lora_up": up[:, used], "lora_down": down[used]}
                part = replace(part, factors=(halves,), rank=count, alpha=net.alpha * count / net.rank)
        parts.append(part)
    return parts


def join(nets: Sequence[Network | None], sizes: Sequence[int]) -> Network | None:
    """The inverse of `split`; None where there is none: only LoRAs can be put together, and DoRAs of all blocks.

    What shares its lower half keeps it; else the halves are put side by side, with zeros between them.
    """
    import torch

    there = [net for net in nets if net is not None]
    decomposed = [net.magnitude is not None for net in there]
    if any(net.kind != "LoRA" for net in there) or (any(decomposed) and sum(decomposed) < len(nets)):
        return None
    downs = [net.factors[0]["lora_down"] for net in there]
    scales = [net.alpha / net.rank for net in there]
    ups = [net.factors[0]["lora_up"] if net else torch.zeros(n, 0) for net, n in zip(nets, sizes, strict=True)]
    is_shared = len(there) == len(nets) and all(torch.equal(down, downs[0]) for down in downs)
    one_scale = len(set(scales)) == 1
    if not one_scale:
        of_each = iter(scales)
        ups = [up * next(of_each) if net else up for net, up in zip(nets, ups, strict=True)]
    factor = {
        "lora_up": torch.cat(ups) if is_shared else torch.block_diag(*ups),
        "lora_down": downs[0] if is_shared else torch.cat(downs),
    }
    rank = len(factor["lora_down"])
    return replace(
        there[0],
        factors=({role: matrix.to(downs[0].dtype) for role, matrix in factor.items()},),
        shape=(sum(sizes), *there[0].shape[1:]),
        rank=rank,
        alpha=(scales[0] if one_scale else 1.0) * rank,
        magnitude=torch.cat([net.magnitude for net in there if net.magnitude is not None]) if any(decomposed) else None,
    )


def complete(roles: Collection[str]) -> bool:
    """Whether tensors of these roles make up a network."""
    return _choices(roles) is not None


def rank_of(shapes: Mapping[str, Shape]) -> int | None:
    """The rank of a complete network, or None for one of whole matrices."""
    found = _choices(shapes)
    assert found is not None
    # The second matrix of a product is (rank, in), with a core before it or without
    return next((shapes[roles[1]][0] for roles in found[1] if len(roles) == 2), None)


def size_of(shapes: Mapping[str, Shape]) -> Shape | None:
    """The size (out, in k k) of a complete network's matrix, or None if its tensors do not go together."""
    factors_alone = {role: shape for role, shape in shapes.items() if role not in (DORA_SCALE, MAGNITUDE_VECTOR)}
    return _size(factors_alone, (1, 1))


def fits(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    """Whether tensors of these shapes make a network for a weight of that shape."""
    return _size(shapes, weight) == (weight[0], math.prod(weight[1:]))


def _size(shapes: Mapping[str, Shape], weight: Shape) -> Shape | None:
    """By doing all the arithmetic on tensors without data."""
    import torch

    tensors = {role: torch.empty(shape, device="meta") for role, shape in shapes.items()}
    try:
        return tuple(network(tensors, weight, rank=1, alpha=1.0).matrix("meta").shape)
    except (RuntimeError, IndexError):  # sizes that differ; too few dimensions
        return None


def _choices(roles: Collection[str]) -> tuple[str, list[tuple[str, ...]]] | None:
    """The kind of network that tensors of these roles make up, and the roles of each of its factors."""
    for kind, factors in _FACTORS.items():
        there = [[needed for needed in alternatives if set(needed) <= set(roles)] for alternatives in factors]
        if all(there):
            return kind, [needed for needed, *_ in there]
    return None


def _factor(tensors: "Mapping[str, Tensor]", roles: tuple[str, ...]) -> "dict[str, Tensor]":
    """The matrices of a factor. One with a Tucker core is sum_ij core_ijkl a_ip b_jr, a matrix of (p, r k l)."""
    import torch

    factor = {role: tensors[role].flatten(1) for role in roles}
    first, last = roles[0], roles[-1]
    if _CORES.get(last) in tensors:
        core = tensors[_CORES[last]]
        factor[last] = torch.einsum("ij...,jr->ir...", core.float(), factor[last].float()).flatten(1)
        if last != "lora_down":  # lora_up is (out, rank) with a core as without
            factor[first] = factor[first].T.contiguous()
    return factor


def _magnitude(tensors: "Mapping[str, Tensor]", shape: Shape) -> "Tensor | None":
    """In a shape that stretches over the weight."""
    ones = tuple(1 for _ in shape[1:])
    if MAGNITUDE_VECTOR in tensors:
        return tensors[MAGNITUDE_VECTOR].reshape(shape[0], *ones)
    if DORA_SCALE not in tensors:
        return None
    scale = tensors[DORA_SCALE]
    of_inputs = scale.ndim > 1 and scale.shape[0] == 1 and scale.numel() == shape[1]
    return scale.reshape(1, shape[1], *ones[1:]) if of_inputs else scale.reshape(shape[0], *ones)
