"""A training as it stands after a step, saved so that a kill at any moment costs only the steps since.

Every batch follows from the number of its step (see `data`), so weights, optimizer and that number are the whole state:
a resumed training goes on bit by bit as if it had never stopped. Knows nothing of photos or losses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.workspace import atomic_write

FILE_NAME = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`weights` are the trained tensors in the order of the optimizer, `step` the plain values of the last step."""

    step: dict[str, Any]
    weights: list[Any]
    optimizer: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in `folder`; a whole one is there at any moment."""
    import torch

    with atomic_write(folder / FILE_NAME) as staged:
        torch.save(vars(checkpoint), staged)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, on the CPU, if there is one."""
    import torch

    if not (folder / FILE_NAME).exists():
        return None
    return Checkpoint(**torch.load(folder / FILE_NAME, map_location="cpu", weights_only=True))
