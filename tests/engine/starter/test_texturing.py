"""Texturing changes the finest levels and leaves the rest as it was, to the bit."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from engine.families.starter import PRESET
from engine.starter import texturing
from engine.starter.latents import LatentCorpus
from engine.starter.perception import Cells


def test_only_the_finest_levels_learn(
    nothing_shown: tuple[LatentCorpus, Cells], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texturing, "BATCH", 2)
    unet = UNet2DConditionModel.from_pretrained(PRESET / "unet", torch_dtype=torch.float32)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    data, cells = nothing_shown
    textured = texturing.train_textures(
        unet,
        CLIPTextModel.from_pretrained(PRESET / "text_encoder", torch_dtype=torch.float32),
        CLIPTokenizer.from_pretrained(PRESET / "tokenizer"),
        data,
        cells,
        tmp_path,
        size=16,
        minutes=1 / 600,
    )
    changed = {name for name, value in textured.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith(texturing.FINEST) for name in changed)
    levels = {"down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3"}
    assert levels <= {".".join(name.split(".")[:2]) for name in changed}
