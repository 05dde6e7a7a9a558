"""Stable Diffusion XL, from settings to the picture, against plain diffusers on a small random model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.controlnets.multicontrolnet_union import MultiControlNetUnionModel
from diffusers.utils import convert_state_dict_to_kohya
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import families
from engine.adapters import Control, Lora, Style, attach
from engine.adapters.ip_adapter import embed
from engine.cache import ModelCache
from engine.families.sdxl import SDXLComponents
from engine.generation import generate, render
from engine.jobs import Work
from engine.lora.files import import_lora, read_lora
from engine.memory.skeleton import controlnet_skeleton
from engine.settings import ControlName, ControlUse, GenerateSettings, LoraUse, StyleUse
from engine.workspace import Workspace
from tests.tiny import SIDE_PX, make_tiny_lora, make_tiny_sdxl, save_union_controlnet

SETTINGS = GenerateSettings(
    prompt="a red mug on a table",
    negative_prompt="blue",
    base="tiny",
    width=SIDE_PX,
    height=SIDE_PX,
    steps=4,
    guidance_scale=5.0,
    seed=5,
)
WINDOW = (0.0, 0.75)
FAMILY = families.family("sdxl")


@dataclass
class Tiny:
    folder: Path
    lora_file: Path
    base: families.Base
    parts: Any

    def draw(self, settings: GenerateSettings = SETTINGS, **attachments: Any) -> np.ndarray:
        with attach(self.parts, **attachments) as attached:
            pipeline = FAMILY.pipeline(self.parts, settings.scheduler)
            return np.asarray(render(pipeline, settings, self.base, attached=attached))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    torch.set_num_threads(1)
    models = tmp_path_factory.mktemp("models")
    folder = make_tiny_sdxl(models / "tiny")
    lora_file = make_tiny_lora(folder, tmp_path_factory.mktemp("loras") / "lora.safetensors", alpha=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_MODELS", str(models))
        base = families.base("tiny")
        yield Tiny(folder, lora_file, base, FAMILY.load(base, torch.float32, "cpu"))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))


def safe_metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "np") as opened:
        return opened.metadata()


def run_plain(pipeline: Any, settings: GenerateSettings = SETTINGS, **inputs: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(
        pipeline(
            settings.prompt,
            negative_prompt=settings.negative_prompt or None,
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            **inputs,
        ).images[0]
    )


@pytest.fixture(scope="module")
def plain(tiny: Tiny) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(tiny.folder, use_safetensors=True)


def combined(tiny: Tiny, settings: GenerateSettings, control: Image.Image, style: Image.Image) -> np.ndarray:
    """A LoRA, a ControlNet and an IP-Adapter, as diffusers puts them together."""
    controlnet = ControlNetModel.from_pretrained(tiny.folder / "controlnet-canny")
    pipeline: Any = StableDiffusionXLControlNetPipeline.from_pretrained(tiny.folder, controlnet=controlnet)
    pipeline.load_lora_weights(tiny.lora_file.parent, weight_name=tiny.lora_file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    pipeline.load_ip_adapter(str(tiny.folder), subfolder="ip_adapter", weight_name="ip-adapter.safetensors")
    pipeline.set_ip_adapter_scale(0.6)
    return run_plain(
        pipeline,
        settings,
        image=control,
        controlnet_conditioning_scale=0.8,
        control_guidance_start=WINDOW[0],
        control_guidance_end=WINDOW[1],
        ip_adapter_image=style,
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"negative_prompt": ""}, {"guidance_scale": 1.0}, {"width": 96, "height": 64}],
    ids=["both prompts", "no negative prompt", "no guidance", "not square"],
)
def test_nothing_attached_is_plain_diffusers(tiny: Tiny, plain: Any, changes: dict[str, Any]) -> None:
    settings = SETTINGS.replace(**changes)
    assert np.array_equal(tiny.draw(settings), run_plain(plain, settings))


def test_an_empty_negative_prompt_is_none_at_all(tiny: Tiny, plain: Any) -> None:
    """diffusers embeds a negative prompt that is not given as zeros, and one that is empty as a text."""
    pipeline = FAMILY.pipeline(tiny.parts, "default")
    with torch.no_grad():
        told, empty, none = (FAMILY.encode(pipeline, [text]) for text in ("a mug", "", None))
        embeds, zeros, pooled, pooled_zeros = plain.encode_prompt("a mug")
        expected_empty, _, expected_pooled, _ = plain.encode_prompt("")
    assert torch.equal(told["prompt_embeds"], embeds)
    assert torch.equal(told["pooled_prompt_embeds"], pooled)
    assert torch.equal(empty["prompt_embeds"], expected_empty)
    assert torch.equal(empty["pooled_prompt_embeds"], expected_pooled)
    assert torch.equal(none["prompt_embeds"], zeros)
    assert torch.equal(none["pooled_prompt_embeds"], pooled_zeros)


@pytest.mark.parametrize("kinds", [("openpose",), ("softedge", "lineart")])
def test_a_controlnet_for_several_kinds_is_told_which(tiny: Tiny, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """Types as published with xinsir/controlnet-union-sdxl-1.0; one for two maps is diffusers' with itself."""
    types = {"openpose": 0, "softedge": 2, "lineart": 3}
    save_union_controlnet(tmp_path / "controlnet-union")
    union: Any = ControlNetUnionModel.from_pretrained(tmp_path / "controlnet-union")
    plain: Any = StableDiffusionXLControlNetUnionPipeline.from_pretrained(
        tiny.folder, controlnet=MultiControlNetUnionModel([union for _ in kinds])
    )
    maps, scales = [picture(n) for n in range(len(kinds))], [0.8, 0.5][: len(kinds)]
    expected = run_plain(
        plain,
        control_image=maps,
        control_mode=[types[kind] for kind in kinds],
        controlnet_conditioning_scale=scales,
    )
    base = tiny.base.replace(controlnets=dict.fromkeys(types, str(tmp_path / "controlnet-union")))
    loaded = [FAMILY.load_controlnet(base, kind, torch.float32, "cpu") for kind in kinds]
    controls = [
        Control(controlnet=net, image=control_map, kind=kind, strength=scale)
        for net, control_map, kind, scale in zip(loaded, maps, kinds, scales, strict=True)
    ]
    assert np.array_equal(tiny.draw(controls=controls), expected)
    other = [replace(control, kind="depth") for control in controls]
    assert not np.array_equal(tiny.draw(controls=other), expected)
    skeleton = controlnet_skeleton(base, kinds[0], torch.float32)
    assert {n: t.shape for n, t in skeleton.state_dict().items()} == {n: t.shape for n, t in union.state_dict().items()}


def test_a_guided_control_acts_on_the_positive_half_alone(tiny: Tiny) -> None:
    controlnet = FAMILY.load_controlnet(tiny.base, "canny", torch.float32, "cpu")
    control, firsts = Control(controlnet=controlnet, image=picture(1)), []
    for controls in ([], [control], [replace(control, guided=True)]):
        calls: list[Any] = []
        hook = tiny.parts.denoiser.register_forward_hook(lambda *call, calls=calls: calls.append(call[-1][0].chunk(2)))
        tiny.draw(controls=controls)
        hook.remove()
        firsts.append(calls[0])
    free, balanced, guided = firsts
    torch.testing.assert_close(guided, (free[0], balanced[1]))
    assert not torch.allclose(free[0], balanced[0])


def test_all_together_are_diffusers_combination_and_leave_no_trace(tiny: Tiny, plain: Any) -> None:
    adapter = FAMILY.load_ip_adapter(tiny.base, torch.float32, "cpu")
    controlnet = FAMILY.load_controlnet(tiny.base, "canny", torch.float32, "cpu")
    control = Control(controlnet=controlnet, image=picture(1), strength=0.8, start=WINDOW[0], end=WINDOW[1])
    attachments = {
        "loras": [Lora(file=read_lora(tiny.lora_file, tiny.base), weight=0.7)],
        "controls": [control],
        "styles": [Style(adapter=adapter, embedding=embed(adapter, picture(2)), weight=0.6)],
    }
    before = tiny.draw()
    alone = [tiny.draw(**{kind: attachment}) for kind, attachment in attachments.items()]
    assert not any(np.array_equal(one, before) for one in alone)

    expected = combined(tiny, SETTINGS, picture(1), picture(2))
    assert np.array_equal(tiny.draw(**attachments), expected)
    assert np.array_equal(tiny.draw(), before)
    unet = tiny.parts.unet
    assert unet.encoder_hid_proj is None
    assert {key: processor for key, processor in unet.attn_processors.items() if hasattr(processor, "scale")} == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


@pytest.mark.parametrize("layout", ["transformers 5", "transformers 4", "kohya"])
def test_a_lora_of_both_text_encoders_is_diffusers(tiny: Tiny, plain: Any, tmp_path: Path, layout: str) -> None:
    """Whatever the file calls the layers; with the weights of `set_adapters`, which are those of all parts."""
    made = make_tiny_lora(tiny.folder, tmp_path / "made.safetensors", alpha=3, text_encoder=True)
    made_state, file = load_file(made), tmp_path / "lora.safetensors"
    in_layers = "text_model.encoder.layers." if layout == "transformers 4" else "encoder.layers."
    if layout == "kohya":
        kohya = convert_state_dict_to_kohya(made_state)
        state = {key.replace("lora_te1_encoder", "lora_te1_text_model_encoder"): kohya[key] for key in kohya}
        state |= {key: torch.tensor(3.0) for key in state if key.endswith(".alpha")}  # as it is made, the rank
    else:
        state = {
            re.sub(r"^text_encoder(_2)?\.(text_model\.)?encoder\.layers\.", rf"text_encoder\1.{in_layers}", key): tensor
            for key, tensor in made_state.items()
        }
    save_file(state, file, safe_metadata(made) if layout != "kohya" else None)
    lora = read_lora(file, tiny.base)
    assert lora.unmatched == ()
    parts = [name.partition(".")[0] for name in lora.layers]
    assert [parts.count(part) for part in ("text_encoder", "text_encoder_2")] == [8, 8]

    plain.load_lora_weights(made.parent, weight_name=made.name, adapter_name="lora")
    plain.set_adapters(["lora"], [0.7])
    expected = run_plain(plain)
    plain.unload_lora_weights()
    assert np.array_equal(tiny.draw(loras=[Lora(file=lora, weight=0.7)]), expected)
    denoiser_alone = replace(lora, layers={n: net for n, net in lora.layers.items() if n.startswith("unet.")})
    assert not np.array_equal(tiny.draw(loras=[Lora(file=denoiser_alone, weight=0.7)]), expected)


def test_from_settings_to_the_picture_of_diffusers(tiny: Tiny, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    lora = import_lora(workspace, tiny.lora_file, name="Mug", base="tiny")
    assert lora.family == "sdxl"
    control, style = picture(1).convert("1").convert("RGB"), picture(2)
    (tmp_path / "job").mkdir()
    settings = SETTINGS.replace(
        loras=(LoraUse(lora=lora.id, weight=0.7),),
        controls=(
            ControlUse(kind="canny", image=workspace.keep_image(control), strength=0.8, end=WINDOW[1], detected=True),
        ),
        styles=(StyleUse(image=workspace.keep_image(style), weight=0.6),),
    )
    cache = ModelCache()
    work = Work(tmp_path / "job", {})
    (made,) = generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]

    expected = combined(tiny, SETTINGS, control, style)
    assert np.array_equal(np.asarray(Image.open(workspace.picture_path(made))), expected)


@pytest.mark.parametrize("scheduler", ["ddim_trailing", "euler_trailing"])
def test_few_steps_are_those_of_lightning_and_hyper(tiny: Tiny, scheduler: Any) -> None:
    """Both end on the last timestep of training: https://huggingface.co/ByteDance/SDXL-Lightning."""
    few = FAMILY.pipeline(tiny.parts, scheduler).scheduler
    few.set_timesteps(4)
    assert few.timesteps.tolist() == [999, 749, 499, 249]
    assert few.config.prediction_type == tiny.parts.scheduler.config.prediction_type


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "dpmpp_2m_karras", "unipc"])
def test_schedulers_keep_the_schedule_of_the_base(tiny: Tiny, scheduler: Any) -> None:
    config = FAMILY.pipeline(tiny.parts, scheduler).scheduler.config
    own = tiny.parts.scheduler.config
    kept = ("prediction_type", "timestep_spacing", "beta_schedule", "beta_start", "beta_end", "steps_offset")
    assert {key: config[key] for key in kept} == {key: own[key] for key in kept}
    assert tiny.draw(SETTINGS.replace(scheduler=scheduler, steps=2)).std() > 0


def test_parts_are_those_of_plain_diffusers_frozen(tiny: Tiny, plain: Any) -> None:
    assert isinstance(tiny.parts, SDXLComponents)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, expected = getattr(tiny.parts, name), getattr(plain, name).state_dict()
        assert not ours.training
        assert not any(parameter.requires_grad for parameter in ours.parameters())
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())


def test_layers_are_those_of_the_loaded_models(tiny: Tiny) -> None:
    expected = {
        f"{part}.{name}": tuple(module.weight.shape)
        for part in ("unet", "text_encoder", "text_encoder_2")
        for name, module in getattr(tiny.parts, part).named_modules()
        if type(module) in (torch.nn.Linear, torch.nn.Conv2d)
    }
    assert FAMILY.layers(tiny.base) == expected
    assert expected["unet.mid_block.attentions.0.transformer_blocks.1.attn2.to_k"] == (32, 40)


def test_what_the_published_base_has() -> None:
    base = families.base("sdxl")
    assert (base.default_size_px, base.default_steps, base.variant) == (1024, 30, "fp16")
    own = {kind for kind, source in base.controlnets.items() if "union" not in source}
    assert (own, set(base.controlnets)) == ({"canny", "depth", "openpose"}, set(get_args(ControlName)))
