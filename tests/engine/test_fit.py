"""A ControlNet of another base is refused by the shapes of its tensors, one of the same architecture is not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine import families
from engine.cache import ModelCache
from engine.errors import BadModel
from engine.families.fit import misfit, read_shapes
from engine.families.pipelines import CONFIGURATIONS
from engine.generation import generate
from engine.jobs import Work
from engine.settings import ControlUse, GenerateSettings
from engine.workspace import Workspace
from tests.tiny import make_tiny_base, make_tiny_sdxl


def published(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of a ControlNet as diffusers makes one for the published base, and of that base's layers."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.device("meta"):
        config: Any = UNet2DConditionModel.load_config(CONFIGURATIONS / name / "unet")
        unet: Any = UNet2DConditionModel.from_config(config)
        controlnet: Any = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in controlnet.state_dict().items()}
    layers = {
        name: tuple(module.weight.shape)
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    return shapes, layers


def test_the_controlnets_of_published_bases_fit_their_own_only() -> None:
    (sd15, sd15_layers), (sdxl, sdxl_layers) = published("sd15"), published("sdxl")
    assert misfit(sd15, sd15_layers) == misfit(sdxl, sdxl_layers) == ""
    assert misfit(sd15, sdxl_layers).endswith("is 640 × 768, where this base has 640 × 2048")
    assert misfit(sdxl, sd15_layers).endswith("is 640 × 2048, where this base has 640 × 768")
    assert (
        misfit({"transformer_blocks.0.attn.to_q.weight": (64, 64)}, sd15_layers) == "none of its blocks is in this base"
    )


def test_it_is_refused_before_its_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOD_STARTER", str(make_tiny_base(tmp_path / "starter")))
    base, family = families.base("starter"), families.family("sd15")
    family.load_controlnet(base, "canny", torch.float32, "cpu")
    other = make_tiny_sdxl(tmp_path / "other") / "controlnet-canny"
    shutil.copytree(other, tmp_path / "starter" / "controlnet-canny", dirs_exist_ok=True)
    refused = pytest.raises(BadModel, match=r"in controlnet-canny was not made for Starter: its .+ is 32 × 40")
    with refused:
        family.load_controlnet(base, "canny", torch.float32, "cpu")

    workspace, work = Workspace(tmp_path / "workspace"), Work(tmp_path, {})
    use = ControlUse(kind="canny", image=workspace.keep_image(Image.new("RGB", (64, 64))), detected=True)
    settings = GenerateSettings(prompt="a mug", width=64, height=64, controls=(use,))
    monkeypatch.setattr("engine.generation.load_base", None)  # so that it cannot be loaded
    with refused:
        generate(settings, workspace=workspace, cache=ModelCache(), work=work)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"not a model")
    with pytest.raises(BadModel, match="damaged"):
        read_shapes(file)
