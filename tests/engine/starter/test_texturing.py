"""Texturing changes the finest levels and the adapter, and leaves the rest as it was, to the bit."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from engine.families.local import UNION
from engine.families.starter import PRESET
from engine.starter import texturing
from engine.starter.latents import LatentCorpus
from engine.starter.perception import Cells
from engine.starter.style import StyledScenes

ADAPTER = PRESET / "ip_adapter" / "ip-adapter.safetensors"


def test_only_the_finest_levels_and_the_adapter_learn(
    nothing_shown: tuple[LatentCorpus, Cells],
    in_a_style: StyledScenes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, count in (("BATCH", 2), ("MAPS", 1), ("STYLED_BATCH", 2)):
        monkeypatch.setattr(texturing, name, count)
    monkeypatch.setattr(texturing, "MAP_SHARES", {"canny": 1.0})
    unet = UNet2DConditionModel.from_pretrained(PRESET / "unet", torch_dtype=torch.float32)
    controlnet = ControlNetModel.from_pretrained(PRESET / UNION, torch_dtype=torch.float32)
    before, steered = ({name: value.clone() for name, value in m.state_dict().items()} for m in (unet, controlnet))
    data, cells = nothing_shown
    textured, weights = texturing.train_textures(
        unet,
        controlnet,
        CLIPTextModel.from_pretrained(PRESET / "text_encoder", torch_dtype=torch.float32),
        CLIPTokenizer.from_pretrained(PRESET / "tokenizer"),
        data,
        cells,
        in_a_style,
        ADAPTER,
        tmp_path,
        minutes=1 / 600,
    )
    after = textured.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert all(name.startswith(texturing.FINEST) for name in changed)
    levels = {"down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3"}
    assert levels <= {".".join(name.split(".")[:2]) for name in changed}
    assert all(torch.equal(value, steered[name]) for name, value in controlnet.state_dict().items())
    adapter = load_file(ADAPTER)
    assert weights.state().keys() == adapter.keys()
    assert any(not torch.equal(value, adapter[name]) for name, value in weights.state().items())
