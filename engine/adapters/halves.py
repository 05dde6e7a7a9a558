"""The two halves of a batch that is guided, [negative, positive]: what concerns one of them only.

A pipeline draws one picture at a time, so that a batch of two is guided and a batch of one is not. Knows nothing of
what is attached.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

GUIDED = 2


def positive(values: Any, size: int) -> Any:
    """The second half of every tensor in nested `values` that has the batch's `size`."""
    if isinstance(values, dict):
        return {name: positive(value, size) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(positive(value, size) for value in values)
    is_batch = getattr(values, "ndim", 0) > 0 and len(values) == size
    return values[size // 2 :] if is_batch else values


def beside_nothing(half: "Tensor | list[Tensor]") -> Any:
    """The positive half as a whole batch, whose negative half is zero."""
    import torch

    if isinstance(half, list):
        return [beside_nothing(one) for one in half]
    return torch.cat([torch.zeros_like(half), half])
