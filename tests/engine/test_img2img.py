"""Pictures that start from a picture, whole or in part, against diffusers' own pipelines for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from engine import families
from engine.abilities import WhyNot
from engine.adapters import Control, Lora, Style, attach
from engine.adapters.ip_adapter import embed
from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate, render
from engine.jobs import Work
from engine.lora.files import read_lora
from engine.recipe import read_png
from engine.settings import ControlUse, GenerateSettings, StartImage
from engine.start_picture import start_from
from engine.workspace import Workspace
from tests.tiny import SIDE_PX, make_tiny_base, make_tiny_lora, make_tiny_sdxl

SETTINGS = GenerateSettings(
    prompt="a red mug on a table",
    negative_prompt="blue",
    width=SIDE_PX,
    height=SIDE_PX,
    steps=6,
    guidance_scale=3.0,
    seed=5,
)
TITLES = {"sd15": "StableDiffusion", "sdxl": "StableDiffusionXL"}
WINDOW = (0.25, 0.9)


@dataclass
class Tiny:
    folder: Path
    lora_file: Path
    base: families.Base
    parts: Any

    @property
    def family(self) -> families.Family:
        return families.family(self.base.family)

    def draw(self, settings: GenerateSettings, mask: Image.Image | None = None, **attachments: Any) -> np.ndarray:
        """As drawn, before what is not masked is put back."""
        assert settings.start is not None
        start = start_from(settings.start, picture(1), mask, settings.width, settings.height)
        with attach(self.parts, **attachments) as attached:
            pipeline = self.family.pipeline(self.parts, settings.scheduler, settings.task)
            bare = replace(start, whole=None)
            return np.asarray(render(pipeline, settings, self.base, attached=attached, start=bare))

    def attachments(self) -> dict[str, list[Any]]:
        adapter = self.family.load_ip_adapter(self.base, torch.float32, "cpu")
        controlnet = self.family.load_controlnet(self.base, "canny", torch.float32, "cpu")
        return {
            "loras": [Lora(file=read_lora(self.lora_file, self.base), weight=0.7)],
            "controls": [
                Control(controlnet=controlnet, image=picture(2), strength=0.8, start=WINDOW[0], end=WINDOW[1])
            ],
            "styles": [Style(adapter=adapter, embedding=embed(adapter, picture(3)), weight=0.6)],
        }


@pytest.fixture(scope="module", params=TITLES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """Of four latent channels, as diffusers' inpainting asks for."""
    torch.set_num_threads(1)
    models = tmp_path_factory.mktemp("models")
    make = {"sd15": lambda folder: make_tiny_base(folder, latent_channels=4), "sdxl": make_tiny_sdxl}[request.param]
    folder = make(models / "tiny")
    lora_file = make_tiny_lora(folder, tmp_path_factory.mktemp("loras") / "lora.safetensors", alpha=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_MODELS", str(models))
        base = families.base("tiny")
        parts = families.family(base.family).load(base, torch.float32, "cpu")
        yield Tiny(folder=folder, lora_file=lora_file, base=base, parts=parts)


def picture(seed: int, size: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> Image.Image:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def disc(size: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((size[0] // 4, size[1] // 4, size[0] // 2 + 5, size[1] // 2 + 5), fill=255)
    return mask


def plain(tiny: Tiny, task: str, settings: GenerateSettings, **inputs: Any) -> np.ndarray:
    """The picture of diffusers' own pipeline for the task, which starts from `picture(1)`."""
    pipeline: Any = getattr(diffusers, f"{TITLES[tiny.base.family]}{task}Pipeline")
    loaded = pipeline.from_pretrained(tiny.folder, use_safetensors=True)
    return run(loaded, settings, image=picture(1), **inputs)


def run(pipeline: Any, settings: GenerateSettings, **inputs: Any) -> np.ndarray:
    assert settings.start is not None
    pipeline.set_progress_bar_config(disable=True)
    if settings.scheduler == "euler_a":
        pipeline.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    return np.asarray(
        pipeline(
            settings.prompt,
            negative_prompt=settings.negative_prompt,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            strength=settings.start.strength,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            **inputs,
        ).images[0]
    )


def combined(tiny: Tiny, task: str, settings: GenerateSettings, **inputs: Any) -> np.ndarray:
    """With a LoRA, a ControlNet and an IP-Adapter, as diffusers puts them together."""
    controlnet = diffusers.ControlNetModel.from_pretrained(tiny.folder / "controlnet-canny")
    kind: Any = getattr(diffusers, f"{TITLES[tiny.base.family]}ControlNet{task}Pipeline")
    pipeline = kind.from_pretrained(tiny.folder, controlnet=controlnet)
    pipeline.load_lora_weights(tiny.lora_file.parent, weight_name=tiny.lora_file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    pipeline.load_ip_adapter(str(tiny.folder), subfolder="ip_adapter", weight_name="ip-adapter.safetensors")
    pipeline.set_ip_adapter_scale(0.6)
    return run(
        pipeline,
        settings,
        image=picture(1),
        control_image=picture(2),
        controlnet_conditioning_scale=0.8,
        control_guidance_start=WINDOW[0],
        control_guidance_end=WINDOW[1],
        ip_adapter_image=picture(3),
        **inputs,
    )


@pytest.mark.parametrize("scheduler", ["default", "euler_a"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_start_is_diffusers_img2img(tiny: Tiny, strength: float, scheduler: Any) -> None:
    settings = SETTINGS.replace(start=StartImage(image="-", strength=strength), scheduler=scheduler)
    assert np.array_equal(tiny.draw(settings), plain(tiny, "Img2Img", settings))


@pytest.mark.parametrize("scheduler", ["default", "euler_a"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_mask_is_diffusers_inpainting(tiny: Tiny, strength: float, scheduler: Any) -> None:
    settings = SETTINGS.replace(start=StartImage(image="-", mask="-", strength=strength), scheduler=scheduler)
    expected = plain(tiny, "Inpaint", settings, mask_image=disc(), width=SIDE_PX, height=SIDE_PX)
    assert np.array_equal(tiny.draw(settings, disc()), expected)


def test_all_attached_to_a_start_is_diffusers_combination(tiny: Tiny) -> None:
    settings = SETTINGS.replace(start=StartImage(image="-", strength=0.7))
    drawn = tiny.draw(settings, None, **tiny.attachments())
    assert not np.array_equal(drawn, tiny.draw(settings))
    assert np.array_equal(drawn, combined(tiny, "Img2Img", settings))


def test_all_attached_to_a_mask_is_diffusers_combination(tiny: Tiny) -> None:
    settings = SETTINGS.replace(start=StartImage(image="-", mask="-", strength=0.7))
    drawn = tiny.draw(settings, disc(), **tiny.attachments())
    assert not np.array_equal(drawn, tiny.draw(settings, disc()))
    expected = combined(tiny, "Inpaint", settings, mask_image=disc(), width=SIDE_PX, height=SIDE_PX)
    assert np.array_equal(drawn, expected)


def test_inpainting_leaves_the_denoiser_as_it_was(tiny: Tiny) -> None:
    config = repr(vars(tiny.parts.unet.config))
    tiny.draw(SETTINGS.replace(start=StartImage(image="-", mask="-")), disc())
    assert repr(vars(tiny.parts.unet.config)) == config
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.parts.unet.modules())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    (tmp_path / "job").mkdir()
    return Work(tmp_path / "job", {})


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[families.Base]:
    """Of eight latent channels, as the starter has more than four."""
    folder = make_tiny_base(tmp_path_factory.mktemp("starter"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_STARTER", str(folder))
        yield families.base("starter")


@pytest.mark.parametrize("only_masked", [False, True])
def test_only_what_is_masked_changes_and_the_recipe_does_it_again(
    starter: families.Base, workspace: Workspace, work: Work, only_masked: bool
) -> None:
    size = (200, 120) if only_masked else (SIDE_PX, SIDE_PX)
    whole, mask = picture(1, size), disc(size)
    use = StartImage(
        image=workspace.keep_image(whole),
        mask=workspace.keep_image(mask),
        strength=0.8,
        only_masked=only_masked,
        padding_px=8,
    )
    control = ControlUse(kind="canny", image=workspace.keep_image(picture(2, size)))
    settings = SETTINGS.replace(start=use, controls=(control,))
    cache = ModelCache()
    (made,) = generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]
    before, after = np.asarray(whole), np.asarray(Image.open(workspace.picture_path(made)))
    assert after.shape == before.shape
    white = np.asarray(mask) == 255
    assert np.array_equal(after[~white], before[~white])
    assert (after[white] != before[white]).any(-1).mean() > 0.9

    settings = read_png(workspace.picture_path(made)).settings
    assert settings.start == use
    (again,) = generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]
    assert workspace.picture_path(again).read_bytes() == workspace.picture_path(made).read_bytes()


def test_the_guidance_of_the_base_holds_from_a_start_too(starter: families.Base) -> None:
    """diffusers' img2img has no `guidance_rescale`: from a start at full strength the noise hides the picture wholly
    under a schedule down to zero SNR, and its text-to-image, with the same noise, is the reference."""
    parts = families.family("sd15").load(starter, torch.float32, "cpu")
    use = StartImage(image="-", strength=1.0)
    settings, start = SETTINGS.replace(start=use), start_from(use, picture(1), None, SIDE_PX, SIDE_PX)
    pipeline = families.family("sd15").pipeline(parts, "default", "image_to_image")
    drawn = render(pipeline, settings, starter, start=start)

    generator = torch.Generator("cpu").manual_seed(settings.seed)
    shape = (1, 8, SIDE_PX // 8, SIDE_PX // 8)
    torch.randn(shape, generator=generator)  # img2img draws the latents of the start first
    reference: Any = diffusers.StableDiffusionPipeline.from_pretrained(starter.source)
    expected = reference(
        settings.prompt,
        negative_prompt=settings.negative_prompt,
        latents=torch.randn(shape, generator=generator),
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        guidance_rescale=starter.guidance_rescale,
    ).images[0]
    difference = np.abs(np.asarray(drawn, int) - np.asarray(expected, int))
    assert difference.max() <= 1


def test_what_a_family_lacks_is_said(starter: families.Base, workspace: Workspace, work: Work) -> None:
    assert WhyNot(starter).task("inpainting") == ""
    lacking = replace(starter, spec=replace(starter.spec, inpaint=""))
    assert WhyNot(lacking).task("inpainting") == "Starter cannot repaint only a part of a picture."
    assert WhyNot(lacking).task("image_to_image") == ""
    assert WhyNot(lacking).task("text_to_image") == ""


def test_a_strength_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(BadSettings, match=r"0\.1 leaves none of the 6 steps\. Choose at least 0\.17"):
        SETTINGS.replace(start=StartImage(image="-", strength=0.1))
    assert SETTINGS.replace(start=StartImage(image="-", strength=0.17)).task == "image_to_image"
