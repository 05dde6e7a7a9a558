"""Every preset is a complete, valid request, and few-step LoRAs are known by the names they are published under."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from engine.errors import NotFound
from engine.families import BASES
from engine.presets import FOLDER, QUALITIES, few_steps, training_preset
from engine.settings import GenerateSettings, Goal, TrainSettings


@pytest.fixture(autouse=True)
def starter_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starter of 256 px, as far as its configuration says."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"sample_size": 32}))
    monkeypatch.setenv("TRIPOD_STARTER", str(tmp_path))


@pytest.mark.parametrize("goal", get_args(Goal))
@pytest.mark.parametrize("base", sorted(BASES))
def test_every_preset_makes_valid_settings(base: str, goal: Any) -> None:
    preset = training_preset(goal, base)

    settings = TrainSettings.from_dict({"dataset": "d", "name": "n", "base": base, "goal": goal, **preset})

    # As the files promise: learning rates carry over, because the effective scale is the same everywhere
    assert settings.alpha / settings.rank == 1
    assert settings.resolution == {"starter": 256, "sd15": 512}.get(base, 1024)


def test_quality_scales_the_steps_only() -> None:
    quick, standard, best = (training_preset("product", "starter", quality) for quality in QUALITIES)

    assert (2 * quick["steps"], best["steps"]) == (standard["steps"], 2 * standard["steps"])
    assert quick | {"steps": 0} == standard | {"steps": 0} == best | {"steps": 0}


def test_unknown_base_is_refused() -> None:
    with pytest.raises(NotFound, match="nosuch"):
        training_preset("face", "nosuch")


def test_a_file_serves_one_base_or_its_family() -> None:
    names = {path.stem for path in FOLDER.glob("*.toml")}
    assert names <= set(BASES) | {base.family for base in BASES.values()}


# Steps, CFG and scheduler of the model cards; a guidance scale of 0 in diffusers is CFG 1
PUBLISHED = {
    "sdxl_lightning_4step_lora": ("Lightning", 4, 1.0, "euler_trailing"),
    "sdxl_lightning_8step_lora": ("Lightning", 8, 1.0, "euler_trailing"),
    "Hyper-SDXL-8steps-lora": ("Hyper", 8, 1.0, "ddim_trailing"),
    "Hyper-SD15-4steps-lora": ("Hyper", 4, 1.0, "ddim_trailing"),
    "Hyper-SDXL-12steps-CFG-lora": ("Hyper with CFG", 12, 5.0, "ddim_trailing"),
    "lcm-lora-sdxl": ("LCM", 4, 1.0, "lcm"),
    "lcm_lora_sdv1-5": ("LCM", 4, 1.0, "lcm"),
    "dmd2_sdxl_4step_lora_fp16": ("DMD2", 4, 1.0, "lcm"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_few_step_lora_is_made_with_what_its_card_says(name: str) -> None:
    found = few_steps(["My file", name], "sdxl")
    assert found is not None
    assert (found.title, found.steps, found.guidance_scale, found.scheduler) == PUBLISHED[name]
    values = {"steps": found.steps, "guidance_scale": found.guidance_scale, "scheduler": found.scheduler}
    GenerateSettings.from_dict({"prompt": "a mug", **values})


def test_lightning_of_qwen_image_takes_the_noise_levels_it_was_distilled_with() -> None:
    found = few_steps(["Qwen-Image-Lightning-8steps-V1.1"], "qwen_image")
    assert found is not None
    assert (found.steps, found.guidance_scale, found.scheduler) == (8, 1.0, "shift_3")


@pytest.mark.parametrize(
    "name", ["My bear", "hyperreal portraits", "lightning bolts", "turbo engine v2", "12 steps up"]
)
def test_other_loras_are_left_alone(name: str) -> None:
    assert few_steps([name], "sdxl") is None
