"""The weights that a job keeps, the phases that it goes through, and what these need under a plan.

Weights are described by modules on the meta device and by the headers of files; none is read.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.families import Base, Components
from engine.families.base import fetched
from engine.memory.plans import LARGE, Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BYTES_OF_4_BIT = 0.5 + 4 / 64
"""A weight in NF4, with its share of a scale in single precision for every 64 (Dettmers et al., arXiv 2305.14314)."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one part: their bytes, and of these the ones in matrices that 8 or 4 bit would make smaller, with
    how many they are; and the bytes of the largest layer."""

    part: str
    size_bytes: int
    matrix_bytes: int = 0
    matrix_count: int = 0
    layer_bytes: int = 0
    stays: bool = False

    def kept_bytes(self, plan: Plan) -> int:
        per_weight = {8: 1.0, 4: BYTES_OF_4_BIT}
        if plan.bits == 16 or not self.matrix_count:
            return self.size_bytes
        return self.size_bytes - self.matrix_bytes + int(self.matrix_count * per_weight[plan.bits])


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a job: the weights that are there, which parts are at work, and the most bytes needed besides."""

    title: str
    there: tuple[Weights, ...]
    at_work: frozenset[str]
    besides_bytes: int

    def needed_bytes(self, plan: Plan) -> int:
        kept = sum(self._kept_bytes(weights, plan) for weights in self.there)
        return self.besides_bytes + kept + self._brought_back_bytes(plan)

    def _brought_back_bytes(self, plan: Plan) -> int:
        """torchao brings a weight back to its precision to multiply with it."""
        if plan.quantiser != "torchao":
            return 0
        at_work = [weights for weights in self.there if weights.part in self.at_work and weights.matrix_count]
        return max((weights.layer_bytes for weights in at_work), default=0)

    def _kept_bytes(self, weights: Weights, plan: Plan) -> int:
        if plan.offload == "none" or weights.stays or (plan.offload == "layers" and weights.part == "vae"):
            return weights.kept_bytes(plan)
        if weights.part not in self.at_work:
            return 0
        # The next layer is on its way while one is at work
        return weights.kept_bytes(plan) if plan.offload == "parts" else 2 * weights.layer_bytes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job needs at most, in bytes, and in which phase that is."""

    needed_bytes: int
    phase: str


def greatest(phases: Sequence[Phase], plan: Plan) -> Estimate:
    phase = max(phases, key=lambda phase: phase.needed_bytes(plan))
    return Estimate(needed_bytes=phase.needed_bytes(plan), phase=phase.title)


def tensors_of(*models: Any) -> "list[Tensor]":
    import torch

    modules = [model for model in models if isinstance(model, torch.nn.Module)]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def weights_of(base: Base, parts: Components) -> "Iterator[Weights]":
    import torch

    for part, model in vars(parts).items():
        if isinstance(model, torch.nn.Module):
            count = sum(parameter.numel() for parameter in model.parameters())
            shrinks = part == base.spec.denoiser or (part in base.spec.text_encoders and count >= LARGE)
            matrices = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
            yield Weights(
                part=part,
                size_bytes=sum(tensor.nbytes for tensor in tensors_of(model)),
                matrix_bytes=sum(matrix.nbytes for matrix in matrices) if shrinks else 0,
                matrix_count=sum(matrix.numel() for matrix in matrices) if shrinks else 0,
                layer_bytes=max(parameter.nbytes for parameter in model.parameters()),
            )


def weights_beside(part: str, model: Any) -> Weights:
    return Weights(part=part, size_bytes=sum(tensor.nbytes for tensor in tensors_of(model)), stays=True)


def weights_of_lora(file: Path, dtype: "torch.dtype") -> Weights:
    """The file's tensors, which as a rule are in half precision, and once more as the layers take them."""
    size_bytes = file.stat().st_size
    return Weights(part=file.stem, size_bytes=size_bytes + size_bytes * dtype.itemsize // 2, stays=True)


def weights_of_style_adapter(base: Base, dtype: "torch.dtype", references: int) -> Weights:
    """Its weights, once more for every reference, and the encoder that looks at references."""
    source, _, file_name = base.require_ip_adapter().rpartition("/")
    encoder = base.image_encoder or f"{source}/image_encoder"
    adapter, _ = stored(fetched(source, file_name) / file_name)
    seeing, _ = stored(fetched(encoder, "model.safetensors") / "model.safetensors")
    return Weights(part="style adapter", size_bytes=(adapter * (1 + references) + seeing) * dtype.itemsize, stays=True)


def stored(file: Path) -> tuple[int, int]:
    """How many numbers a safetensors file holds, and their bytes. Only its header is read."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes), max(ends, default=0)
