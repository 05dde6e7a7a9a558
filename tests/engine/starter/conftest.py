"""A corpus of noise, for a training step or two."""

import pytest
import torch

from engine.starter.latents import LatentCorpus
from engine.starter.looks import LOOKS
from engine.starter.perception import Cells
from engine.starter.text import MAX_TOKENS

SIDE = 16


@pytest.fixture
def nothing_shown() -> tuple[LatentCorpus, Cells]:
    """Twelve rows of noise of 16x16 cells that all show a backdrop, in every look."""
    rows = torch.arange(12)
    noise = torch.randn(12, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).half()
    data = LatentCorpus(
        latents={SIDE: noise}, tokens=torch.zeros(12, 6, MAX_TOKENS, dtype=torch.int16), pairs=rows, people=rows
    )
    backdrop = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    cells = Cells(names=backdrop, colours=backdrop, colourless=rows >= 0, setting=0 * rows, look=rows % len(LOOKS))
    return data, cells
