"""Step caches against diffusers' own, on small random transformers; and off while a layout is on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, QwenImagePipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from PIL import Image

from engine import families
from engine.abilities import require_supported
from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate, render
from engine.jobs import Work
from engine.settings import ControlUse, GenerateSettings
from engine.workspace import Workspace
from tests.tiny import SIDE_PX
from tests.tiny_transformers import make_tiny_flux, make_tiny_qwen_image

STEPS = 6
SETTINGS = GenerateSettings(prompt="a red mug", base="tiny", width=SIDE_PX, height=SIDE_PX, steps=STEPS, seed=5)
CACHED = {
    # Far above what is usual, for a random model moves a lot from step to step
    "first_block": (FirstBlockCacheConfig(threshold=0.5), {"step_cache_threshold": 0.5}),
    "mag": (
        MagCacheConfig(threshold=0.5, num_inference_steps=STEPS, mag_ratios=FLUX_MAG_RATIOS),
        {"step_cache_threshold": 0.5},
    ),
}


@dataclass
class Tiny:
    folder: Path
    base: families.Base
    parts: Any

    def draw(self, settings: GenerateSettings = SETTINGS) -> np.ndarray:
        pipeline = families.family("flux").pipeline(self.parts, "default")
        return np.asarray(render(pipeline, settings, self.base))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    torch.set_num_threads(1)
    models = tmp_path_factory.mktemp("models")
    folder = make_tiny_flux(models / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_MODELS", str(models))
        base = families.base("tiny")
        yield Tiny(folder, base, families.family("flux").load(base, torch.float32, "cpu"))


@pytest.mark.parametrize("name", CACHED)
def test_a_cache_is_diffusers_own_anew_for_every_picture(tiny: Tiny, name: Any) -> None:
    config, threshold = CACHED[name]
    plain: Any = FluxPipeline.from_pretrained(tiny.folder)
    plain.set_progress_bar_config(disable=True)
    plain.transformer.enable_cache(config)
    expected = plain(
        SETTINGS.prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=STEPS,
        guidance_scale=SETTINGS.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
    ).images[0]

    before = tiny.draw()
    settings = SETTINGS.replace(step_cache=name, **threshold)
    for _ in range(2):
        assert np.array_equal(tiny.draw(settings), np.asarray(expected))
    assert not np.array_equal(np.asarray(expected), before)
    assert not tiny.parts.denoiser.is_cache_enabled
    assert np.array_equal(tiny.draw(), before)


def test_qwen_image_has_the_first_block_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path))
    folder = make_tiny_qwen_image(tmp_path / "tiny")
    base = families.base("tiny")
    family = families.family(base.family)
    parts = family.load(base, torch.float32, "cpu")
    settings = SETTINGS.replace(guidance_scale=1.0, step_cache="first_block", step_cache_threshold=0.5)
    drawn = render(family.pipeline(parts, "default"), settings, base)
    uncached = render(family.pipeline(parts, "default"), settings.replace(step_cache="none"), base)

    reference: Any = QwenImagePipeline.from_pretrained(folder)
    reference.set_progress_bar_config(disable=True)
    reference.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    expected = reference(
        SETTINGS.prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=STEPS,
        generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
        true_cfg_scale=1.0,
    ).images[0]
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    assert not np.array_equal(np.asarray(drawn), np.asarray(uncached))


class Told(Work):
    notes: list[str]

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_cache_is_off_while_a_layout_is_on_and_says_so(tiny: Tiny, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    (tmp_path / "job").mkdir()
    work = Told(tmp_path / "job", {})
    work.notes = []
    lines = Image.new("L", (SIDE_PX, SIDE_PX))
    lines.paste(255, (20, 20, 22, 60))
    use = ControlUse(kind="canny", image=workspace.keep_image(lines), detected=True)
    cache = ModelCache()
    with_cache, without = (
        generate(
            SETTINGS.replace(controls=(use,), step_cache=name, step_cache_threshold=0.5),
            workspace=workspace,
            cache=cache,
            work=work,
        )["pictures"][0]
        for name in ("first_block", "none")
    )
    pixels = [np.asarray(Image.open(workspace.picture_path(picture))) for picture in (with_cache, without)]
    assert np.array_equal(pixels[0], pixels[1])
    assert work.notes == ["The step cache is off for this picture: with it, a layout may not hold."]


def test_a_base_without_caches_says_so() -> None:
    with pytest.raises(BadSettings, match=r"Stable Diffusion XL has no such step cache\. Choose: none\."):
        require_supported(SETTINGS.replace(base="sdxl", step_cache="mag"), families.base("sdxl"))
