"""Bases and families: what is found, what is loaded, and how it differs from plain diffusers (not at all)."""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine import families
from engine.errors import MissingModel, NotFound
from engine.families.base import fetched, weights_hash
from engine.families.unet import SCHEDULERS
from engine.settings import GenerateSettings
from tests.tiny import SCHEDULER, SIDE_PX, make_tiny_base

FAMILY = families.family("sd15")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_base(tmp_path_factory.mktemp("tiny") / "starter")


@pytest.fixture
def base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> families.Base:
    monkeypatch.setenv("TRIPOD_STARTER", str(folder))
    return families.base("starter")


def load(base: families.Base) -> families.Components:
    return FAMILY.load(base, torch.float32, "cpu")


def test_the_starter_has_what_lies_in_its_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "starter"
    shutil.copytree(folder, copy)
    monkeypatch.setenv("TRIPOD_STARTER", str(copy))
    whole = families.base("starter")
    assert set(whole.controlnets) == {"canny", "openpose"}
    assert whole.ip_adapter == str(copy / "ip_adapter" / "ip-adapter.safetensors")
    assert whole.captioner == str(copy / "captioner")

    for part in ("controlnet-openpose", "ip_adapter", "captioner"):
        shutil.rmtree(copy / part)
    bare = families.base("starter")
    assert bare.default_size_px == SIDE_PX
    assert (set(bare.controlnets), bare.ip_adapter, bare.captioner) == ({"canny"}, None, None)
    with pytest.raises(MissingModel, match=r"no ControlNet for openpose\. It has canny"):
        FAMILY.load_controlnet(bare, "openpose", torch.float32, "cpu")
    with pytest.raises(MissingModel, match="no style adapter"):
        FAMILY.load_ip_adapter(bare, torch.float32, "cpu")


def test_settings_begin_with_what_suits_the_starter() -> None:
    starter, settings = families.base("starter"), GenerateSettings(prompt="a mug")
    assert (settings.base, settings.width, settings.height) == (starter.name, *[starter.default_size_px] * 2)
    assert (settings.steps, settings.guidance_scale) == (starter.default_steps, starter.default_guidance)


def test_one_controlnet_may_follow_several_kinds(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "starter"
    shutil.copytree(folder, copy)
    monkeypatch.setenv("TRIPOD_STARTER", str(copy))
    union = copy / "controlnet-union"
    (copy / "controlnet-openpose").rename(union)
    assert set(families.base("starter").controlnets) == {"canny"}  # what it follows is not said
    (union / "kinds.json").write_text('["canny", "depth"]')
    both = families.base("starter")
    assert both.controlnets == {"canny": str(copy / "controlnet-canny"), "depth": str(union)}
    assert (
        load(both).unet.config.in_channels
        == FAMILY.load_controlnet(both, "depth", torch.float32, "cpu").config.in_channels
    )


def test_a_base_that_does_not_exist() -> None:
    with pytest.raises(NotFound, match=r"'sd9'\. Choose one of: starter, sd15"):
        families.base("sd9")


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOD_STARTER", str(tmp_path / "nowhere"))
    assert families.base("starter").default_size_px == 256
    with pytest.raises(MissingModel, match="nowhere is not there"):
        load(families.base("starter"))
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(MissingModel, match="no model in"):
        load(families.base("starter"))


def test_a_hub_base_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModel, match="stable-diffusion-v1-5/stable-diffusion-v1-5 is not on this machine"):
        load(families.base("sd15"))


def test_parts_are_those_of_plain_diffusers_frozen(base: families.Base) -> None:
    parts = load(base)
    pipeline = StableDiffusionPipeline.from_pretrained(base.source)
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(parts, name), getattr(pipeline, name)
        assert not ours.training
        assert not any(parameter.requires_grad for parameter in ours.parameters())
        expected = theirs.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())


def test_half_precision_files_run_in_single_on_the_cpu(folder: Path, tmp_path: Path, base: families.Base) -> None:
    StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float16).save_pretrained(tmp_path)
    parts = load(replace(base, source=str(tmp_path)))
    assert {p.dtype for m in (parts.denoiser, parts.vae, parts.text_encoder) for p in m.parameters()} == {torch.float32}


def test_layers_are_those_of_the_loaded_models(base: families.Base) -> None:
    parts = load(base)
    expected = {
        f"{part}.{name}": tuple(module.weight.shape)
        for part in ("unet", "text_encoder")
        for name, module in getattr(parts, part).named_modules()
        if type(module) in (torch.nn.Linear, torch.nn.Conv2d)
    }
    assert FAMILY.layers(base) == expected
    assert expected["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"] == (32, 32)


@pytest.mark.parametrize("name", ["default", *SCHEDULERS])
def test_every_scheduler_keeps_the_schedule_of_the_base(base: families.Base, name: Any) -> None:
    pipeline = FAMILY.pipeline(load(base), name)
    config = pipeline.scheduler.config
    kept = ("prediction_type", "rescale_betas_zero_snr", "timestep_spacing", "beta_schedule", "beta_start", "beta_end")
    assert {key: config[key] for key in kept} == {key: SCHEDULER[key] for key in kept}
    for steps in (1, 3):
        picture = pipeline(
            "a mug",
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]
        assert np.isfinite(picture).all()
        assert picture.std() > 0


def test_the_default_scheduler_is_the_base_s_own(base: families.Base) -> None:
    parts = load(base)
    scheduler = FAMILY.pipeline(parts, "default").scheduler
    assert type(scheduler) is type(parts.scheduler)
    assert scheduler is not parts.scheduler  # it keeps state while it runs


def test_the_hash_of_a_base_is_that_of_its_denoiser(base: families.Base) -> None:
    file = fetched(base.source) / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights_hash(base) == sha256(file.read_bytes()).hexdigest()
