"""Random networks of every kind as kohya's and LyCORIS's files hold them, and the change to a weight they stand for.

The change is written out from the definitions (arXiv 2106.09685, 2108.06098, 2309.14859, 2402.09353, and Tucker's
sum over i and j of t_ijkl a_ip b_jr) in double precision. Nothing here knows of `engine.lora`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Tensors by what follows the layer's name in a file; the whole change to the weight."""

    tensors: dict[str, Tensor]
    delta: np.ndarray


class Maker:
    """Tensors of small random numbers, and the same in double precision."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        self.tensors[name] = torch.from_numpy(self.random.normal(size=shape).astype(np.float32) * 0.3)
        return self.tensors[name].double().numpy()


def lora(make: Maker, shape: Shape, rank: int) -> np.ndarray:
    down, up = make("lora_down.weight", rank, *shape[1:]), make("lora_up.weight", shape[0], rank, *ones(shape))
    return np.tensordot(up.reshape(shape[0], rank), down, 1)


def lora_with_core(make: Maker, shape: Shape, rank: int) -> np.ndarray:
    down, up = make("lora_down.weight", rank, shape[1], 1, 1), make("lora_up.weight", shape[0], rank, 1, 1)
    core = make("lora_mid.weight", rank, rank, *shape[2:])
    return np.einsum("ijkl,pi,jr->prkl", core, up[:, :, 0, 0], down[:, :, 0, 0])


def loha(make: Maker, shape: Shape, rank: int) -> np.ndarray:
    columns = math.prod(shape[1:])
    w1 = make("hada_w1_a", shape[0], rank) @ make("hada_w1_b", rank, columns)
    w2 = make("hada_w2_a", shape[0], rank) @ make("hada_w2_b", rank, columns)
    return (w1 * w2).reshape(shape)


def loha_with_core(make: Maker, shape: Shape, rank: int) -> np.ndarray:
    w1, w2 = (
        np.einsum(
            "ijkl,ip,jr->prkl",
            make(f"hada_t{n}", rank, rank, *shape[2:]),
            make(f"hada_w{n}_a", rank, shape[0]),
            make(f"hada_w{n}_b", rank, shape[1]),
        )
        for n in (1, 2)
    )
    return w1 * w2


def lokr(
    make: Maker, shape: Shape, rank: int, *, parts: tuple[int, ...] = (2,), core: bool = False, by: int = 2
) -> np.ndarray:
    """w1 is (by, by), w2 the rest; those of `parts` are in two, or in three with a core."""
    small, large = (by, by), (shape[0] // by, shape[1] // by, *shape[2:])
    w1 = make("lokr_w1_a", by, rank) @ make("lokr_w1_b", rank, by) if 1 in parts else make("lokr_w1", *small)
    if core:
        w2 = np.einsum(
            "ijkl,ip,jr->prkl",
            make("lokr_t2", rank, rank, *shape[2:]),
            make("lokr_w2_a", rank, large[0]),
            make("lokr_w2_b", rank, large[1]),
        )
    elif 2 in parts:
        w2 = make("lokr_w2_a", large[0], rank) @ make("lokr_w2_b", rank, math.prod(large[1:]))
    else:
        w2 = make("lokr_w2", *large)
    if not ones(shape):
        return np.kron(w1, w2)
    w2 = w2.reshape(large)
    return np.stack([np.kron(w1, w2[:, :, y, x]) for y, x in np.ndindex(*shape[2:])], -1).reshape(shape)


def ones(shape: Shape) -> Shape:
    return tuple(1 for _ in shape[2:])


KINDS: dict[str, Callable[[Maker, Shape, int], np.ndarray]] = {
    "LoRA": lora,
    "LoHa": loha,
    "LoKr": lokr,
    "LoKr, both in parts": lambda make, shape, rank: lokr(make, shape, rank, parts=(1, 2)),
    "LoKr, whole": lambda make, shape, rank: lokr(make, shape, rank, parts=()),
    "LoRA with a core": lora_with_core,
    "LoHa with a core": loha_with_core,
    "LoKr with a core": lambda make, shape, rank: lokr(make, shape, rank, core=True),
}
OF_KERNELS = tuple(kind for kind in KINDS if kind.endswith("core"))

MAGNITUDES = ("outputs", "inputs")


def sample(
    kind: str, weight: Tensor, *, rank: int, alpha: float | None, magnitude: str | None = None, seed: int = 0
) -> Sample:
    """A random network of a kind. Without alpha its scale is 1, and so is that of a LoKr of whole matrices.

    The magnitude of a DoRA is of the outputs, (out, 1, ...), or of the inputs, (1, in, 1, ...).
    """
    shape = tuple(weight.shape)
    make = Maker(seed)
    scale = 1.0 if alpha is None or kind == "LoKr, whole" else alpha / rank
    delta = scale * KINDS[kind](make, shape, rank)
    if alpha is not None:
        make.tensors["alpha"] = torch.tensor(alpha)
    if magnitude:
        w = weight.double().numpy()
        axis = MAGNITUDES.index(magnitude)
        along = tuple(n for n in range(w.ndim) if n != axis)
        size = np.sqrt(((w + delta) ** 2).sum(along, keepdims=True))
        of_weight = np.sqrt((w**2).sum(along, keepdims=True))
        make.tensors["dora_scale"] = torch.from_numpy(
            (of_weight * make.random.uniform(0.8, 1.3, of_weight.shape)).astype(np.float32)
        )
        delta = make.tensors["dora_scale"].double().numpy() * (w + delta) / size - w
    return Sample(tensors=make.tensors, delta=delta)


def relative_error(delta: Tensor, expected: np.ndarray) -> float:
    """Of the whole, by Frobenius's norm."""
    return float(np.linalg.norm(delta.double().numpy() - expected) / np.linalg.norm(expected))
