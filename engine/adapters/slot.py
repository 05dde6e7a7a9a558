"""A layer of a compiled block, with what stands beside it: as a module in its place instead of a hook.

Compiled code does not notice that a hook comes or goes. Of a module it knows the class and the shapes of its tensors:
others of the same shapes run the same code. Knows nothing of LoRA files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LEAST_RANK = 16


@contextmanager
def in_slot(model: Any, name: str, down: "Tensor | None", up: "Tensor") -> Iterator[Any]:
    """In the body, the linear layer W called `name` computes W x + up down x; without `down`, W x + up x.

    Yields the module in its place, whose buffers `down` and `up` may be written to.
    """
    parent_name, _, own_name = name.rpartition(".")
    parent, layer = model.get_submodule(parent_name), model.get_submodule(name)
    slot = _slot_class()(layer, down, up)
    setattr(parent, own_name, slot)
    try:
        yield slot
    finally:
        setattr(parent, own_name, layer)


def filled_up(down: "Tensor", up: "Tensor") -> "tuple[Tensor, Tensor]":
    """With zeros to a rank that is a power of two, at least `LEAST_RANK`: few shapes for all ranks."""
    from torch.nn.functional import pad

    rank = len(down)
    missing = max(LEAST_RANK, 1 << (rank - 1).bit_length()) - rank
    return pad(down, (0, 0, 0, missing)), pad(up, (0, missing))


@cache
def _slot_class() -> Any:
    import torch
    from torch.nn.functional import linear

    class Slot(torch.nn.Module):
        down: torch.Tensor | None
        up: torch.Tensor

        def __init__(self, layer: torch.nn.Module, down: torch.Tensor | None, up: torch.Tensor) -> None:
            super().__init__()
            self.layer = layer
            self.register_buffer("down", down)
            self.register_buffer("up", up)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + linear(x if self.down is None else linear(x, self.down), self.up)

    return Slot
