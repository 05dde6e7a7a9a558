"""Where CFG and the negative prompt are said to have no effect, plain diffusers makes the same picture with any."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from engine import families
from engine.abilities import WhyNot, require_supported, require_trainable
from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate
from engine.lora.names import TEXT_ENCODERS
from engine.settings import ControlUse, GenerateSettings, TrainSettings
from engine.workspace import Workspace
from tests.engine.test_generation import Told
from tests.tiny import SIDE_PX, UNET, make_tiny_base
from tests.tiny_transformers import KINDS, make_tiny_flux, make_tiny_flux2

SETTINGS = GenerateSettings(
    prompt="a red mug", base="tiny", width=SIDE_PX, height=SIDE_PX, steps=2, guidance_scale=3.0, seed=5
)
TRUE_CFG_1 = "The negative prompt has no effect at true CFG 1: choose more."


def make_told_unet(folder: Path) -> Path:
    """A base that was distilled from guided pictures, as those of latent consistency are."""
    make_tiny_base(folder)
    channels: dict[str, Any] = {"in_channels": 8, "out_channels": 8}
    torch.manual_seed(0)
    unet: Any = diffusers.UNet2DConditionModel(**UNET | channels, time_cond_proj_dim=8)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)
    unet.save_pretrained(folder / "unet")
    return folder


MAKERS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "sd15": (make_tiny_base, "", ""),
    "told unet": (make_told_unet, "", "The negative prompt has no effect: tiny was distilled to do without."),
    "flux dev": (make_tiny_flux, "", TRUE_CFG_1),
    "flux schnell": (
        partial(make_tiny_flux, guidance_embeds=False),
        "CFG has no effect: tiny was distilled to do without.",
        TRUE_CFG_1,
    ),
    "klein base": (make_tiny_flux2, "", ""),
    "klein": (
        partial(make_tiny_flux2, is_distilled=True),
        "CFG has no effect: tiny was distilled to do without.",
        "The negative prompt has no effect: tiny was distilled to do without.",
    ),
}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str, str]:
    torch.set_num_threads(1)
    make, no_guidance, no_negative_prompt = MAKERS[request.param]
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path / "models"))
    return make(tmp_path / "models" / "tiny"), no_guidance, no_negative_prompt


def plain(pipeline: Any, settings: GenerateSettings) -> np.ndarray:
    if isinstance(pipeline, diffusers.Flux2KleinPipeline):  # which takes a negative prompt in this form only
        asked = KINDS["flux2"].inputs(settings) | KINDS["flux2"].negative(pipeline, settings)
    else:
        asked = {"guidance_scale": settings.guidance_scale, "negative_prompt": settings.negative_prompt or None}
    size = {"width": settings.width, "height": settings.height}
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    drawn = pipeline(prompt=settings.prompt, num_inference_steps=settings.steps, generator=generator, **size, **asked)
    return np.asarray(drawn.images[0])


def test_what_has_no_effect_is_said(made: tuple[Path, str, str], tmp_path: Path) -> None:
    folder, no_guidance, no_negative_prompt = made
    base = families.base("tiny")
    assert WhyNot(base).guidance() == no_guidance
    assert WhyNot(base).negative_prompt(SETTINGS) == no_negative_prompt

    pipeline: Any = getattr(diffusers, base.spec.pipeline).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    expected, negative = plain(pipeline, SETTINGS), SETTINGS.replace(negative_prompt="blue")
    assert np.array_equal(plain(pipeline, SETTINGS.replace(guidance_scale=5.0)), expected) is bool(no_guidance)
    assert np.array_equal(plain(pipeline, negative), expected) is bool(no_negative_prompt)

    workspace, work = Workspace(tmp_path / "workspace"), Told(tmp_path / "job")
    (made_here,) = generate(negative, workspace=workspace, cache=ModelCache(), work=work)["pictures"]
    drawn = np.asarray(Image.open(workspace.picture_path(made_here)))
    assert np.array_equal(drawn, expected) is bool(no_negative_prompt)
    said = [note for note in work.notes if "no effect" in note]
    assert said == [reason for reason in (no_guidance, no_negative_prompt) if reason]


def test_a_negative_prompt_that_only_needs_more_guidance() -> None:
    schnell, klein, sd15 = (families.base(name) for name in ("flux_schnell", "flux2_klein", "sd15"))
    assert WhyNot(schnell).negative_prompt(SETTINGS.replace(true_cfg_scale=2.0)) == ""
    assert "FLUX.2 klein was distilled" in WhyNot(klein).negative_prompt(SETTINGS.replace(guidance_scale=9.0))
    at_1 = "The negative prompt has no effect at CFG 1: choose more."
    assert WhyNot(sd15).negative_prompt(SETTINGS.replace(guidance_scale=1.0)) == at_1


def test_a_base_that_is_told_its_guidance_has_it_in_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path))
    make_told_unet(tmp_path / "tiny")
    base = families.base("tiny")
    assert WhyNot(base).guidance_interval() == "tiny cannot be guided for a part of the steps."
    with pytest.raises(BadSettings, match="for a part of the steps"):
        require_supported(SETTINGS.replace(guidance_end=0.5), base)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd35_large"])
def test_layouts_can_count_more_where_both_halves_of_guidance_are_one_batch(name: str) -> None:
    assert WhyNot(families.base(name)).control_mode("layout") == ""


def test_layouts_cannot_count_more_elsewhere() -> None:
    base = families.base("qwen_image")
    use = ControlUse(kind="canny", image="0" * 64)
    require_supported(SETTINGS.replace(controls=(use.replace(mode="balanced"),)), base)
    with pytest.raises(BadSettings, match=r"does not act on layouts\. Set the control mode to balanced"):
        require_supported(SETTINGS.replace(controls=(use.replace(mode="layout"),)), base)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd35_large", "flux_dev", "flux2_klein", "z_image", "qwen_image"])
def test_text_encoders_are_trained_where_diffusers_loads_a_lora_on_them(name: str) -> None:
    base = families.base(name)
    loaded = getattr(diffusers, base.spec.pipeline)._lora_loadable_modules
    assert base.spec.trained_text_encoders == tuple(part for part in loaded if part in TEXT_ENCODERS)
    assert WhyNot(base).text_encoder() == (
        "" if len(loaded) > 1 else f"LoRAs for {base.spec.title} have no part for the text encoder."
    )
    settings = TrainSettings(dataset="-", name="-", base=name)
    require_trainable(settings, base)
    if len(loaded) == 1:
        with pytest.raises(BadSettings, match="no part for the text encoder"):
            require_trainable(settings.replace(text_encoder_learning_rate=1e-5), base)
