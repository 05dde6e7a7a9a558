"""Which part of a reference is taken, and where in the picture it acts, against diffusers on small random models that
have the blocks of the real ones."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image

from engine import families
from engine.adapters import Style, attach
from engine.adapters.ip_adapter import embed
from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate, render
from engine.jobs import Work
from engine.settings import GenerateSettings, StyleUse
from engine.workspace import Workspace
from tests import tiny

SETTINGS = GenerateSettings(
    prompt="a red mug", base="tiny", width=tiny.SIDE_PX, height=tiny.SIDE_PX, steps=2, guidance_scale=3.0, seed=5
)
CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
LEVELS = {  # as in the published configurations
    "sd15": {
        "block_out_channels": (16, 16, 16, 16),
        "down_block_types": (*[CROSS.format("Down")] * 3, PLAIN.format("Down")),
        "up_block_types": (PLAIN.format("Up"), *[CROSS.format("Up")] * 3),
        "layers_per_block": 2,
    },
    "sdxl": {
        "block_out_channels": (16, 16, 16),
        "down_block_types": (PLAIN.format("Down"), *[CROSS.format("Down")] * 2),
        "up_block_types": (*[CROSS.format("Up")] * 2, PLAIN.format("Up")),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 2),
        "attention_head_dim": 2,
    },
}
SCALES: dict[tuple[str, str], Any] = {  # arXiv 2404.02733, and for sd15 the authors' infer_style_sd15.py
    ("sdxl", "style"): {"up": {"block_0": [0.0, 0.7, 0.0]}},
    ("sdxl", "layout"): {"down": {"block_2": [0.0, 0.7]}},
    ("sd15", "style"): {"up": {"block_1": 0.7}},
    ("sd15", "layout"): {"down": {"block_2": 0.7}, "mid": 0.7},
    ("sdxl", "all"): 0.7,
    ("sd15", "all"): 0.7,
}


@dataclass
class Model:
    family: Any
    base: families.Base
    parts: Any
    adapter: Any
    folder: Path

    def style(self, seed: int, target: Any = "all", **how: Any) -> Style:
        blocks = self.base.spec.style_blocks.get(target, ("",))
        return Style(adapter=self.adapter, embedding=embed(self.adapter, picture(seed)), blocks=blocks, **how)

    def draw(self, *styles: Style, settings: GenerateSettings = SETTINGS) -> np.ndarray:
        with attach(self.parts, styles=styles) as attached:
            pipeline = self.family.pipeline(self.parts, "default")
            return np.asarray(render(pipeline, settings, self.base, attached=attached))

    def reference(self, scales: list[Any], masks: list[Image.Image] | None = None) -> np.ndarray:
        """What plain diffusers makes of references with these scales, one adapter each."""
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(self.folder)
        count = len(scales)
        pipeline.load_ip_adapter(
            str(self.folder), subfolder=["ip_adapter"] * count, weight_name=["ip-adapter.safetensors"] * count
        )
        pipeline.set_ip_adapter_scale(scales)
        pipeline.set_progress_bar_config(disable=True)
        side = tiny.SIDE_PX
        processed = [IPAdapterMaskProcessor().preprocess(mask, side, side) for mask in masks or []]
        return np.asarray(
            pipeline(
                SETTINGS.prompt,
                width=side,
                height=side,
                num_inference_steps=SETTINGS.steps,
                guidance_scale=SETTINGS.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
                ip_adapter_image=[picture(seed) for seed in range(count)],
                cross_attention_kwargs={"ip_adapter_masks": processed} if processed else None,
            ).images[0]
        )


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    torch.set_num_threads(1)
    name = request.param
    models = tmp_path_factory.mktemp(name)
    make, constant = {"sd15": (tiny.make_tiny_base, "UNET"), "sdxl": (tiny.make_tiny_sdxl, "SDXL_UNET")}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, constant, getattr(tiny, constant) | LEVELS[name])
        patch.setenv("TRIPOD_MODELS", str(models))
        folder = make(models / "tiny")
        base, family = families.base("tiny"), families.family(name)
        parts = family.load(base, torch.float32, "cpu")
        yield Model(family, base, parts, family.load_ip_adapter(base, torch.float32, "cpu"), folder)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (tiny.SIDE_PX, tiny.SIDE_PX, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half(left: bool) -> Image.Image:
    mask = np.zeros((tiny.SIDE_PX, tiny.SIDE_PX), np.uint8)
    mask[:, : tiny.SIDE_PX // 2] = 255
    return Image.fromarray(mask if left else 255 - mask)


@pytest.mark.parametrize("target", ["all", "style", "layout"])
def test_a_target_is_diffusers_scale_per_block(model: Model, target: str) -> None:
    expected = model.reference([SCALES[model.family.spec.name, target]])
    assert np.array_equal(model.draw(model.style(0, target, weight=0.7)), expected)
    assert not np.array_equal(expected, model.draw())


def test_several_references_keep_their_targets(model: Model) -> None:
    name = model.family.spec.name
    expected = model.reference([SCALES[name, "style"], SCALES[name, "layout"]])
    styles = [model.style(0, "style", weight=0.7), model.style(1, "layout", weight=0.7)]
    assert np.array_equal(model.draw(*styles), expected)


def test_masks_are_diffusers_masks_and_leave_no_trace(model: Model) -> None:
    before = model.draw()
    masks = [half(left=True), half(left=False)]
    expected = model.reference([0.7, 0.9], masks)
    styles = [model.style(i, weight=w, mask=m) for i, (w, m) in enumerate(zip((0.7, 0.9), masks, strict=True))]
    assert np.array_equal(model.draw(*styles), expected)
    assert not np.array_equal(model.draw(*(replace(style, mask=None) for style in styles)), expected)
    assert np.array_equal(model.draw(), before)
    assert not any(module._forward_pre_hooks for module in model.parts.denoiser.modules())


def test_a_reference_beside_a_masked_one_acts_everywhere(model: Model) -> None:
    """As with a mask that is white all over."""
    masked = model.style(0, mask=half(left=True))
    white = Image.new("L", (tiny.SIDE_PX, tiny.SIDE_PX), 255)
    assert np.array_equal(model.draw(masked, model.style(1)), model.draw(masked, model.style(1, mask=white)))


def test_a_block_that_the_base_lacks_is_named(model: Model) -> None:
    with pytest.raises(BadSettings, match=r"no block up_blocks\.9"):
        model.draw(replace(model.style(0), blocks=("up_blocks.9",)))


def test_from_settings_to_the_picture(model: Model, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    mask = half(left=True).resize((3 * tiny.SIDE_PX, 3 * tiny.SIDE_PX), Image.Resampling.NEAREST)
    reference, kept_mask = workspace.keep_image(picture(0)), workspace.keep_image(mask)
    settings = SETTINGS.replace(styles=(StyleUse(image=reference, weight=0.7, target="style", mask=kept_mask),))
    (tmp_path / "job").mkdir()
    work = Work(tmp_path / "job", {})
    [made] = generate(settings, workspace=workspace, cache=ModelCache(), work=work)["pictures"]
    expected = model.draw(model.style(0, "style", weight=0.7, mask=half(left=True)))
    assert np.array_equal(np.asarray(Image.open(workspace.picture_path(made))), expected)
