"""Refining trains the U-Net and the adapter in one network and gives both back apart."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from engine.families.starter import PRESET
from engine.starter import refining
from engine.starter.latents import LatentCorpus
from engine.starter.perception import Cells, Reader
from engine.starter.style import StyledScenes

ADAPTER = PRESET / "ip_adapter" / "ip-adapter.safetensors"


def test_both_learn_and_the_unet_is_the_one_without_the_adapter(
    nothing_shown: tuple[LatentCorpus, Cells],
    in_a_style: StyledScenes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = in_a_style.size
    monkeypatch.setattr(refining, "BATCH", {size: 2})
    monkeypatch.setattr(refining, "STYLED_BATCH", {size: 2})
    unet = UNet2DConditionModel.from_pretrained(PRESET / "unet", torch_dtype=torch.float32)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    data, cells = nothing_shown
    refined, weights = refining.train_refined(
        unet,
        CLIPTextModel.from_pretrained(PRESET / "text_encoder", torch_dtype=torch.float32),
        CLIPTokenizer.from_pretrained(PRESET / "tokenizer"),
        data,
        Reader(),
        cells,
        in_a_style,
        ADAPTER,
        tmp_path,
        minutes=1 / 600,
    )
    after, exported = refined.state_dict(), load_file(ADAPTER)
    assert after.keys() == before.keys()
    assert not torch.equal(after["mid_block.resnets.0.conv1.weight"], before["mid_block.resnets.0.conv1.weight"])
    assert weights.state().keys() == exported.keys()
    assert any(not torch.equal(value, exported[name]) for name, value in weights.state().items())
    saved = torch.load(tmp_path / f"refined-{size}.pt", weights_only=True)["averages"]["unet"]
    assert all(torch.equal(saved[name], value) for name, value in after.items())
