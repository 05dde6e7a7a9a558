"""A corpus of noise, and of noise in a style, for a training step or two."""

import numpy as np
import pytest
import torch

from engine.starter.corpus import LOOKS_PER_SCENE, Corpus
from engine.starter.latents import LatentCorpus
from engine.starter.looks import LOOKS
from engine.starter.perception import Cells
from engine.starter.style import EMBEDDING, Styled, StyledScenes
from engine.starter.text import MAX_TOKENS

SIDE = 16
SCENES = 2


@pytest.fixture
def nothing_shown() -> tuple[LatentCorpus, Cells]:
    """The rows of two scenes, of noise in 16x16 cells that all show a backdrop, in every look."""
    rows = torch.arange(2 * LOOKS_PER_SCENE * SCENES)
    noise = torch.randn(len(rows), 16, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).half()
    data = LatentCorpus(
        latents={SIDE: noise}, tokens=torch.zeros(len(rows), 6, MAX_TOKENS, dtype=torch.int16), pairs=rows, people=rows
    )
    backdrop = torch.zeros(SCENES, SIDE, SIDE, dtype=torch.uint8)
    cells = Cells(names=backdrop, colours=backdrop, colourless=rows >= 0, setting=0 * rows, look=rows % len(LOOKS))
    return data, cells


@pytest.fixture
def in_a_style() -> StyledScenes:
    """Noise in the style of noise, of the scenes of `nothing_shown`, whose photos are noise too."""

    class Photos(Corpus):
        def __init__(self) -> None: ...

        def __len__(self) -> int:
            return SCENES * LOOKS_PER_SCENE

        def __getitem__(self, row: int) -> np.ndarray:
            return np.random.default_rng(row).integers(0, 256, (8 * SIDE, 8 * SIDE, 3), np.uint8)

    class Scenes(StyledScenes):
        def __init__(self) -> None:
            self.corpus, self.size = Photos(), SIDE

        def draw(self, count: int, generator: torch.Generator) -> Styled:
            return Styled(
                latents=torch.randn(count, 16, SIDE, SIDE, generator=generator),
                names=torch.zeros(count, SIDE, SIDE, dtype=torch.int64),
                captions=["a mug"] * count,
                embeds=torch.randn(count, 1, EMBEDDING, generator=generator),
            )

    return Scenes()
