"""Attachments against diffusers' own way of doing the same, and their detaching without a trace."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image

from engine import families
from engine.adapters import Attached, Control, Lora, Style, attach
from engine.adapters.ip_adapter import embed
from engine.families import Base, Components, IPAdapter
from engine.generation import render
from engine.lora.files import read_lora
from engine.settings import GenerateSettings
from tests.tiny import SIDE_PX, make_tiny_base, make_tiny_lora

STEPS = 4
PROMPT = "a red mug on a table"
SETTINGS = GenerateSettings(
    prompt=PROMPT, negative_prompt="blue", width=SIDE_PX, height=SIDE_PX, steps=STEPS, guidance_scale=3.0, seed=5
)


@dataclass
class Tiny:
    """A loaded tiny base with something of every kind to attach."""

    folder: Path
    lora_files: list[Path]
    base: Base
    parts: Components
    ip_adapter: IPAdapter
    loras: list[Lora]
    controls: list[Control]
    styles: list[Style]

    def draw(
        self, attached: Attached | None = None, guidance_rescale: float = 0.0, guidance_scale: float = 3.0
    ) -> np.ndarray:
        pipeline = families.family("sd15").pipeline(self.parts, "default")
        base = replace(self.base, guidance_rescale=guidance_rescale)
        settings = SETTINGS.replace(guidance_scale=guidance_scale)
        return np.asarray(render(pipeline, settings, base, attached=attached))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    torch.set_num_threads(1)
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "starter")
    files = [
        make_tiny_lora(folder, folder.parent / f"{n}.safetensors", seed=n, alpha=3, text_encoder=n == 2) for n in (1, 2)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_STARTER", str(folder))
        base, family = families.base("starter"), families.family("sd15")
        parts = family.load(base, torch.float32, "cpu")
        ip_adapter = family.load_ip_adapter(base, torch.float32, "cpu")
        controlnets = [family.load_controlnet(base, kind, torch.float32, "cpu") for kind in ("canny", "openpose")]
        yield Tiny(
            folder=folder,
            lora_files=files,
            base=base,
            parts=parts,
            ip_adapter=ip_adapter,
            loras=[Lora(file=read_lora(file, base), weight=w) for file, w in zip(files, (0.7, -0.4), strict=True)],
            controls=[
                Control(controlnet=net, image=picture(n), strength=0.8 / n)
                for n, net in enumerate(controlnets, start=1)
            ],
            styles=[
                Style(adapter=ip_adapter, embedding=embed(ip_adapter, picture(n)), weight=w)
                for n, w in ((3, 0.6), (4, 0.9))
            ],
        )


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def plain(tiny: Tiny, controls: int = 0) -> Any:
    """A pipeline as diffusers loads it, sharing nothing with ours."""
    if not controls:
        return StableDiffusionPipeline.from_pretrained(tiny.folder, use_safetensors=True)
    kinds = ("canny", "openpose")[:controls]
    nets = [ControlNetModel.from_pretrained(tiny.folder / f"controlnet-{kind}") for kind in kinds]
    return StableDiffusionControlNetPipeline.from_pretrained(tiny.folder, controlnet=nets, use_safetensors=True)


def run_plain(pipeline: Any, **inputs: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(
        pipeline(
            PROMPT,
            negative_prompt="blue",
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            generator=torch.Generator("cpu").manual_seed(5),
            **inputs,
        ).images[0]
    )


@pytest.fixture(scope="module")
def untouched(tiny: Tiny) -> np.ndarray:
    return run_plain(plain(tiny))


def load_loras(pipeline: Any, files: list[Path], weights: list[float]) -> None:
    for n, file in enumerate(files):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"lora{n}")
    pipeline.set_adapters([f"lora{n}" for n in range(len(files))], weights)


def load_styles(pipeline: Any, tiny: Tiny, scales: list[float]) -> None:
    n = len(scales)
    pipeline.load_ip_adapter(str(tiny.folder), subfolder=["ip_adapter"] * n, weight_name=["ip-adapter.safetensors"] * n)
    pipeline.set_ip_adapter_scale(scales)


def test_nothing_attached_is_plain_diffusers(tiny: Tiny) -> None:
    expected = run_plain(plain(tiny), guidance_rescale=0.7)
    assert np.array_equal(tiny.draw(guidance_rescale=0.7), expected)


@pytest.mark.parametrize("count", [1, 2])
def test_loras_are_diffusers_adapters(tiny: Tiny, untouched: np.ndarray, count: int) -> None:
    pipeline = plain(tiny)
    load_loras(pipeline, tiny.lora_files[:count], [0.7, -0.4][:count])
    expected = run_plain(pipeline)
    assert not np.array_equal(expected, untouched)
    with attach(tiny.parts, loras=tiny.loras[:count]) as attached:
        assert np.array_equal(tiny.draw(attached), expected)


def windowed(tiny: Tiny, count: int) -> list[Control]:
    """The first `count` controls, each during a part of the steps."""
    windows = [(0.0, 0.6), (0.25, 1.0)][:count]
    return [replace(control, start=s, end=e) for control, (s, e) in zip(tiny.controls, windows, strict=False)]


def run_controlled(pipeline: Any, controls: list[Control], **inputs: Any) -> np.ndarray:
    return run_plain(
        pipeline,
        image=[control.image for control in controls],
        controlnet_conditioning_scale=[control.strength for control in controls],
        control_guidance_start=[control.start for control in controls],
        control_guidance_end=[control.end for control in controls],
        **inputs,
    )


@pytest.mark.parametrize("count", [1, 2])
def test_controls_are_diffusers_controlnet_pipeline(tiny: Tiny, untouched: np.ndarray, count: int) -> None:
    controls = windowed(tiny, count)
    expected = run_controlled(plain(tiny, controls=count), controls)
    assert not np.array_equal(expected, untouched)
    with attach(tiny.parts, controls=controls) as attached:
        assert np.array_equal(tiny.draw(attached), expected)


class Unweakened(ControlNetModel):
    """A ControlNet whose outer layers add as much in guess mode as otherwise."""

    def forward(self, *args: Any, guess_mode: bool = False, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("count", [1, 2])
def test_guided_controls_are_diffusers_guess_mode(tiny: Tiny, untouched: np.ndarray, count: int) -> None:
    balanced = windowed(tiny, count)
    guided = [replace(control, guided=True) for control in balanced]
    nets = [Unweakened.from_pretrained(tiny.folder / f"controlnet-{kind}") for kind in ("canny", "openpose")[:count]]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tiny.folder, controlnet=nets, use_safetensors=True)
    expected = run_controlled(pipeline, guided, guess_mode=True)
    assert not np.array_equal(expected, untouched)
    with attach(tiny.parts, controls=guided) as attached:
        assert np.array_equal(tiny.draw(attached), expected)
        without_guidance = tiny.draw(attached, guidance_scale=1.0)
    with attach(tiny.parts, controls=balanced) as attached:
        assert np.array_equal(tiny.draw(attached, guidance_scale=1.0), without_guidance)


def test_a_map_is_read_once_a_picture(tiny: Tiny) -> None:
    embedding = tiny.controls[0].controlnet.controlnet_cond_embedding
    before, reads = vars(embedding).keys(), []
    hook = embedding.conv_in.register_forward_hook(lambda *_: reads.append(1))
    with attach(tiny.parts, controls=tiny.controls[:1]) as attached:
        first, again = tiny.draw(attached), tiny.draw(attached)
    hook.remove()
    assert len(reads) == 2
    assert np.array_equal(first, again)
    assert vars(embedding).keys() == before


def test_one_controlnet_follows_two_maps(tiny: Tiny) -> None:
    net = ControlNetModel.from_pretrained(tiny.folder / "controlnet-canny")
    twice = StableDiffusionControlNetPipeline.from_pretrained(tiny.folder, controlnet=[net, net], use_safetensors=True)
    expected = run_plain(twice, image=[picture(1), picture(2)], controlnet_conditioning_scale=[0.8, 0.4])
    ours = tiny.controls[0].controlnet
    controls = [Control(controlnet=ours, image=picture(n), strength=0.8 / n) for n in (1, 2)]
    with attach(tiny.parts, controls=controls) as attached:
        assert np.array_equal(tiny.draw(attached), expected)


@pytest.mark.parametrize("count", [1, 2])
def test_styles_are_diffusers_ip_adapters(tiny: Tiny, untouched: np.ndarray, count: int) -> None:
    pipeline = plain(tiny)
    load_styles(pipeline, tiny, [0.6, 0.9][:count])
    expected = run_plain(pipeline, ip_adapter_image=[picture(3), picture(4)][:count])
    assert not np.array_equal(expected, untouched)
    with attach(tiny.parts, styles=tiny.styles[:count]) as attached:
        assert np.array_equal(tiny.draw(attached), expected)


def test_all_together_are_diffusers_combination(tiny: Tiny) -> None:
    pipeline = plain(tiny, controls=2)
    load_loras(pipeline, tiny.lora_files, [0.7, -0.4])
    load_styles(pipeline, tiny, [0.6])
    expected = run_plain(
        pipeline,
        image=[control.image for control in tiny.controls],
        controlnet_conditioning_scale=[control.strength for control in tiny.controls],
        ip_adapter_image=picture(3),
    )
    with attach(tiny.parts, loras=tiny.loras, controls=tiny.controls, styles=tiny.styles[:1]) as attached:
        assert np.array_equal(tiny.draw(attached), expected)


def test_windows_of_loras_and_styles_are_changes_of_scale_between_steps(tiny: Tiny) -> None:
    pipeline = plain(tiny)
    load_loras(pipeline, tiny.lora_files[:1], [0.7])
    load_styles(pipeline, tiny, [0.0])

    def half_way(pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
        if step + 1 == STEPS // 2:
            pipeline.set_adapters(["lora0"], [0.0])
            pipeline.set_ip_adapter_scale(0.6)
        return tensors

    expected = run_plain(pipeline, ip_adapter_image=picture(3), callback_on_step_end=half_way)
    loras, styles = [replace(tiny.loras[0], end=0.5)], [replace(tiny.styles[0], start=0.5)]
    with attach(tiny.parts, loras=loras, styles=styles) as attached:
        assert np.array_equal(tiny.draw(attached), expected)


def prediction(parts: Components) -> torch.Tensor:
    """What the UNet makes of fixed inputs, to the last bit."""
    noise = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 8, 8, 8, generator=noise), torch.randn(2, 48, 32, generator=noise)
    with torch.no_grad():
        return parts.denoiser(latents, torch.tensor(500), encoder_hidden_states=text).sample


def trace(parts: Components) -> list[Any]:
    """Everything that an attachment could leave behind: modules, attributes, hooks, configuration, weights."""
    found: list[Any] = [(name, id(getattr(parts, name))) for name in vars(parts)]
    for model in (parts.denoiser, parts.vae, parts.text_encoder):
        found.append(repr(sorted(vars(model.config).items(), key=lambda item: item[0])))
        for name, module in model.named_modules(remove_duplicate=False):
            attributes = {key: id(value) for key, value in vars(module).items() if not key.startswith("_")}
            children = {key: id(child) for key, child in module._modules.items()}
            hooks = [len(value) for key, value in vars(module).items() if key.endswith("_hooks")]
            found.append((name, type(module), module.training, attributes, children, hooks))
        found += [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()]
    return found


KINDS = ("loras", "controls", "styles")


@pytest.mark.parametrize("order", permutations(KINDS), ids="-".join)
def test_detaching_restores_the_base_exactly_in_every_order(tiny: Tiny, order: tuple[str, ...]) -> None:
    before, predicted, plain_picture = trace(tiny.parts), prediction(tiny.parts), tiny.draw()
    with ExitStack() as stack:
        embeddings: Any = ()
        switches: Any = ()
        beginnings: Any = ()
        for kind in order:
            one = stack.enter_context(attach(tiny.parts, **{kind: getattr(tiny, kind)}))
            embeddings, switches = embeddings + one.style_embeddings, switches + one.switches
            beginnings += one.beginnings
        in_turn = tiny.draw(Attached(beginnings=beginnings, style_embeddings=embeddings, switches=switches))
    assert trace(tiny.parts) == before
    assert torch.equal(prediction(tiny.parts), predicted)
    assert np.array_equal(tiny.draw(), plain_picture)
    with attach(tiny.parts, loras=tiny.loras, controls=tiny.controls, styles=tiny.styles) as attached:
        assert np.array_equal(tiny.draw(attached), in_turn)
    assert not np.array_equal(in_turn, plain_picture)


@pytest.mark.parametrize("kinds", [("loras",), ("controls",), ("styles",), KINDS], ids="-".join)
def test_detaching_restores_the_base_when_the_body_raises(tiny: Tiny, kinds: tuple[str, ...]) -> None:
    before, predicted, plain_picture = trace(tiny.parts), prediction(tiny.parts), tiny.draw()

    def draw_and_raise() -> None:
        with attach(tiny.parts, **{kind: getattr(tiny, kind) for kind in kinds}) as attached:
            tiny.draw(attached)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_and_raise()
    assert trace(tiny.parts) == before
    assert torch.equal(prediction(tiny.parts), predicted)
    assert np.array_equal(tiny.draw(), plain_picture)


def test_a_control_of_no_strength_changes_nothing(tiny: Tiny) -> None:
    with attach(tiny.parts, controls=[replace(tiny.controls[0], strength=0.0)]) as attached:
        assert np.array_equal(tiny.draw(attached), tiny.draw())


def test_guidance_rescale_holds_under_a_control(tiny: Tiny) -> None:
    """diffusers' ControlNet pipeline has none; with a control of no effect, the plain pipeline is the reference."""
    expected = run_plain(plain(tiny), guidance_rescale=0.7)
    with attach(tiny.parts, controls=[replace(tiny.controls[0], strength=1e-30)]) as attached:
        assert np.array_equal(tiny.draw(attached, guidance_rescale=0.7), expected)
