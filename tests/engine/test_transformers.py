"""The families with a transformer, from settings to the picture, against plain diffusers on small random models."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from engine import families
from engine.abilities import require_supported
from engine.adapters import Control, Lora, Style, attach
from engine.adapters.ip_adapter import embed
from engine.cache import ModelCache
from engine.errors import BadSettings, MissingModel
from engine.generation import generate, render
from engine.jobs import Work
from engine.lora.files import import_lora, read_lora
from engine.settings import ControlUse, GenerateSettings, LoraUse, StyleUse
from engine.workspace import Workspace
from tests.tiny import SIDE_PX
from tests.tiny_transformers import KINDS, Kind, make_tiny_transformer_lora

SETTINGS = GenerateSettings(
    prompt="a red mug on a table",
    negative_prompt="blue",
    base="tiny",
    width=SIDE_PX,
    height=SIDE_PX,
    steps=3,
    guidance_scale=3.5,
    seed=5,
)


@dataclass
class Tiny:
    name: str
    kind: Kind
    folder: Path
    lora_file: Path
    base: families.Base
    parts: Any

    @property
    def family(self) -> families.Family:
        return families.family(self.name)

    @property
    def guided(self) -> GenerateSettings:
        return SETTINGS.replace(**self.kind.guided)

    def draw(self, settings: GenerateSettings, **attachments: Any) -> np.ndarray:
        with attach(self.parts, **attachments) as attached:
            pipeline = self.family.pipeline(self.parts, settings.scheduler)
            return np.asarray(render(pipeline, settings, self.base, attached=attached))

    def plain(self, settings: GenerateSettings, pipeline: Any = None, **inputs: Any) -> np.ndarray:
        pipeline = pipeline or self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        torch.manual_seed(settings.seed)  # some pipelines draw from torch's own generator too
        return np.asarray(
            pipeline(
                prompt=settings.prompt,
                width=settings.width,
                height=settings.height,
                num_inference_steps=settings.steps,
                generator=torch.Generator("cpu").manual_seed(settings.seed),
                **self.kind.inputs(settings),
                **self.kind.negative(pipeline, settings),
                **inputs,
            ).images[0]
        )

    def pipeline(self, *control_kinds: str) -> Any:
        """The family's plain pipeline, or the one with ControlNets for these kinds."""
        if not control_kinds:
            return getattr(diffusers, self.base.spec.pipeline).from_pretrained(self.folder)
        assert self.kind.controlnet
        pipeline_class, model_class = (getattr(diffusers, name) for name in self.kind.controlnet)
        nets = [model_class.from_pretrained(self.folder / f"controlnet-{kind}") for kind in control_kinds]
        return pipeline_class.from_pretrained(self.folder, controlnet=nets if len(nets) > 1 else nets[0])

    def control(self, kind: str, seed: int, **changes: Any) -> Control:
        controlnet = self.family.load_controlnet(self.base, kind, torch.float32, "cpu")
        return Control(controlnet=controlnet, kind=kind, image=picture(seed), **changes)


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    torch.set_num_threads(1)
    models = tmp_path_factory.mktemp("models")
    kind = KINDS[request.param]
    folder = kind.make(models / "tiny")
    lora_file = make_tiny_transformer_lora(folder, tmp_path_factory.mktemp("loras") / "lora.safetensors", alpha=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_MODELS", str(models))
        base = families.base("tiny")
        assert base.family == request.param
        parts = families.family(base.family).load(base, torch.float32, "cpu")
        yield Tiny(request.param, kind, folder, lora_file, base, parts)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))


def test_nothing_attached_is_plain_diffusers(tiny: Tiny) -> None:
    pipeline = tiny.pipeline()
    for settings in (SETTINGS, tiny.guided, tiny.guided.replace(width=96, height=64), SETTINGS.replace(steps=1)):
        assert np.array_equal(tiny.draw(settings), tiny.plain(settings, pipeline))


def test_shifted_by_three_at_any_size(tiny: Tiny) -> None:
    if "shift_3" not in tiny.base.spec.schedulers:
        pytest.skip("not in this family")
    settings = tiny.guided.replace(scheduler="shift_3", steps=4)
    pipeline = tiny.family.pipeline(tiny.parts, "shift_3")
    for width in (SIDE_PX, 2 * SIDE_PX):
        render(pipeline, settings.replace(width=width), tiny.base)
        sigmas = np.linspace(1, 0, 5)
        np.testing.assert_allclose(pipeline.scheduler.sigmas, 3 * sigmas / (1 + 2 * sigmas), rtol=1e-6)


def test_a_lora_is_diffusers(tiny: Tiny) -> None:
    pipeline = tiny.pipeline()
    pipeline.load_lora_weights(tiny.lora_file.parent, weight_name=tiny.lora_file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    lora = Lora(file=read_lora(tiny.lora_file, tiny.base), weight=0.7)
    expected = tiny.plain(tiny.guided, pipeline)
    assert np.array_equal(tiny.draw(tiny.guided, loras=[lora]), expected)
    assert not np.array_equal(expected, tiny.draw(tiny.guided))


def test_two_loras_are_diffusers_stack(tiny: Tiny, tmp_path: Path) -> None:
    second = make_tiny_transformer_lora(tiny.folder, tmp_path / "second.safetensors", rank=2, seed=2)
    pipeline = tiny.pipeline()
    for name, file in (("first", tiny.lora_file), ("second", second)):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    pipeline.set_adapters(["first", "second"], [0.7, -0.4])
    files = (read_lora(file, tiny.base) for file in (tiny.lora_file, second))
    loras = [Lora(file=file, weight=weight) for file, weight in zip(files, (0.7, -0.4), strict=True)]
    assert np.array_equal(tiny.draw(SETTINGS, loras=loras), tiny.plain(SETTINGS, pipeline))


def test_a_control_is_diffusers(tiny: Tiny) -> None:
    if tiny.kind.controlnet is None:
        pytest.skip("no ControlNets in this family")
    pipeline = tiny.pipeline("canny")
    for settings in (SETTINGS, tiny.guided):
        expected = tiny.plain(settings, pipeline, control_image=picture(1), controlnet_conditioning_scale=0.8)
        assert np.array_equal(tiny.draw(settings, controls=[tiny.control("canny", 1, strength=0.8)]), expected)
        assert not np.array_equal(expected, tiny.draw(settings))


def test_a_guided_control_acts_on_the_positive_half_alone(tiny: Tiny) -> None:
    if "control_modes" not in tiny.base.spec.supports:
        pytest.skip("guidance is not one batch in this family")
    control, halves = tiny.control("canny", 1), []
    hook = tiny.parts.denoiser.register_forward_hook(lambda *call: halves.append(call[-1][0].chunk(2)))
    for controls in ([], [control], [replace(control, guided=True)]):
        tiny.draw(tiny.guided.replace(steps=1), controls=controls)
    hook.remove()
    free, balanced, guided = halves
    torch.testing.assert_close(guided, (free[0], balanced[1]))
    assert not torch.allclose(free[0], balanced[0])


def test_two_controls_are_diffusers(tiny: Tiny) -> None:
    if tiny.name not in ("flux", "sd3"):
        pytest.skip("diffusers takes no list of ControlNets in this family")
    inputs = {"control_image": [picture(1), picture(3)], "controlnet_conditioning_scale": [0.8, 0.5]}
    expected = tiny.plain(tiny.guided, tiny.pipeline("canny", "canny"), **inputs)
    controls = [tiny.control("canny", 1, strength=0.8), tiny.control("canny", 3, strength=0.5)]
    assert np.array_equal(tiny.draw(tiny.guided, controls=controls), expected)


def test_a_controlnet_for_several_kinds_is_told_which(tiny: Tiny) -> None:
    if tiny.name != "flux":
        pytest.skip("only Flux.1's is told")
    union = tiny.pipeline("depth")
    for kind, mode in (("canny", 0), ("depth", 2), ("openpose", 4)):  # as published with FLUX.1-dev-ControlNet-Union
        expected = tiny.plain(SETTINGS, union, control_image=picture(1), control_mode=mode)
        control = replace(tiny.control("depth", 1), kind=kind)
        assert np.array_equal(tiny.draw(SETTINGS, controls=[control]), expected)


def test_two_maps_for_one_controlnet_are_diffusers(tiny: Tiny) -> None:
    if tiny.name != "flux":
        pytest.skip("only Flux.1's is told which kind a map is of")
    pipeline = tiny.pipeline("depth")
    pipeline.register_modules(controlnet=diffusers.FluxMultiControlNetModel([pipeline.controlnet]))
    inputs = {"control_image": [picture(1), picture(3)], "controlnet_conditioning_scale": [0.8, 0.5]}
    when = {"control_guidance_start": [0.0, 0.0], "control_guidance_end": [1.0, 1.0]}  # else the second is left out
    expected = tiny.plain(SETTINGS, pipeline, control_mode=[2, 4], **inputs, **when)
    depth = tiny.control("depth", 1, strength=0.8)
    controls = [depth, replace(depth, kind="openpose", image=picture(3), strength=0.5)]
    assert np.array_equal(tiny.draw(SETTINGS, controls=controls), expected)


def test_all_together_are_diffusers_combination_and_leave_no_trace(tiny: Tiny) -> None:
    if tiny.kind.controlnet is None or tiny.kind.load_ip_adapter is None:
        pytest.skip("no ControlNets or no style adapters in this family")
    pipeline = tiny.pipeline("canny")
    pipeline.load_lora_weights(tiny.lora_file.parent, weight_name=tiny.lora_file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    tiny.kind.load_ip_adapter(pipeline, tiny.folder)
    pipeline.set_ip_adapter_scale(0.6)
    adapter = tiny.family.load_ip_adapter(tiny.base, torch.float32, "cpu")
    attachments: dict[str, Any] = {
        "loras": [Lora(file=read_lora(tiny.lora_file, tiny.base), weight=0.7)],
        "controls": [tiny.control("canny", 1, strength=0.8, end=0.7)],
        "styles": [Style(adapter=adapter, embedding=embed(adapter, picture(2)), weight=0.6)],
    }
    before = tiny.draw(SETTINGS)
    attributes = {name: set(vars(module)) for name, module in tiny.parts.denoiser.named_modules()}
    processors = dict(tiny.parts.denoiser.attn_processors)
    alone = [tiny.draw(SETTINGS, **{kind: attachment}) for kind, attachment in attachments.items()]
    assert not any(np.array_equal(one, before) for one in alone)

    expected = tiny.plain(
        SETTINGS,
        pipeline,
        control_image=picture(1),
        controlnet_conditioning_scale=0.8,
        control_guidance_end=0.7,
        ip_adapter_image=picture(2),
    )
    assert np.array_equal(tiny.draw(SETTINGS, **attachments), expected)
    assert np.array_equal(tiny.draw(SETTINGS), before)
    assert {name: set(vars(module)) for name, module in tiny.parts.denoiser.named_modules()} == attributes
    assert tiny.parts.denoiser.attn_processors == processors
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.parts.denoiser.modules())


def test_from_settings_to_the_picture_of_diffusers(tiny: Tiny, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    lora = import_lora(workspace, tiny.lora_file, name="Mug", base="tiny")
    assert lora.family == tiny.name
    control = picture(1).convert("1").convert("RGB")
    settings = tiny.guided.replace(loras=(LoraUse(lora=lora.id, weight=0.7),))
    if tiny.kind.controlnet:
        use = ControlUse(kind="canny", image=workspace.keep_image(control), strength=0.8, detected=True)
        settings = settings.replace(controls=(use,))
    (tmp_path / "job").mkdir()
    work = Work(tmp_path / "job", {})
    (made,) = generate(settings, workspace=workspace, cache=ModelCache(), work=work)["pictures"]

    pipeline = tiny.pipeline(*("canny",) if tiny.kind.controlnet else ())
    pipeline.load_lora_weights(tiny.lora_file.parent, weight_name=tiny.lora_file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    inputs = {"control_image": control, "controlnet_conditioning_scale": 0.8} if tiny.kind.controlnet else {}
    expected = tiny.plain(settings, pipeline, **inputs)
    assert np.array_equal(np.asarray(Image.open(workspace.picture_path(made))), expected)


def test_what_the_family_lacks_is_refused_in_a_sentence(tiny: Tiny) -> None:
    schedulers = ", ".join(tiny.base.spec.schedulers)
    lacking: list[tuple[dict[str, Any], str]] = [
        ({"width": 72}, "The width is 72 px, which tiny cannot draw. Use a multiple of 16, such as 64."),
        ({"scheduler": "euler_a"}, f"tiny does not run with the scheduler euler_a. Choose: {schedulers}."),
        (
            {"controls": (ControlUse(kind="segmentation", image="ab"),)},
            "tiny has no ControlNet for areas yet"
            if tiny.kind.controlnet
            else "There are no ControlNets for FLUX.2 klein",
        ),
    ]
    if "ip_adapter" not in tiny.base.spec.supports:
        lacking.append(({"styles": (StyleUse(image="ab"),)}, "tiny has no style adapter"))
    if "true_cfg" not in tiny.base.spec.supports:
        lacking.append(({"true_cfg_scale": 2.0}, "tiny has one guidance only, the CFG"))
    if "guidance_interval" not in tiny.base.spec.supports:
        lacking.append(({"guidance_end": 0.5}, "tiny cannot be guided for a part of the steps"))
    for changes, sentence in lacking:
        with pytest.raises((BadSettings, MissingModel)) as refused:
            require_supported(SETTINGS.replace(**changes), tiny.base)
        assert sentence in str(refused.value)


def test_layers_are_those_of_the_loaded_models(tiny: Tiny) -> None:
    expected = {
        f"{part}.{name}": tuple(module.weight.shape)
        for part in ("transformer", *tiny.base.spec.text_encoders)
        for name, module in getattr(tiny.parts, part).named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert tiny.family.layers(tiny.base) == expected


def test_clean_latents_are_what_the_denoiser_says(tiny: Tiny) -> None:
    """Of a picture that is made in one step, they are all of it, in whatever order its pipeline has them."""
    seen: list[torch.Tensor] = []
    pipeline = tiny.family.pipeline(tiny.parts, "default")

    def look(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append(tiny.parts.clean_latents(pipeline.scheduler, args, kwargs, output))

    hook = tiny.parts.denoiser.register_forward_hook(look, with_kwargs=True)
    with torch.no_grad():
        embeds = tiny.family.encode(pipeline, [SETTINGS.prompt])
        latents = pipeline(
            **tiny.family.arguments(SETTINGS.replace(guidance_scale=1.0), embeds, ()),
            width=SIDE_PX,
            height=2 * SIDE_PX,
            num_inference_steps=1,
            generator=torch.Generator().manual_seed(5),
            output_type="latent",
        ).images
        hook.remove()
        picture_latents = tiny.parts.latents_of(torch.zeros(1, 3, 2 * SIDE_PX, SIDE_PX))
    (clean,) = seen
    assert clean.shape == picture_latents.shape
    if tiny.name == "flux2":  # whose pipeline gives them as the autoencoder has them
        norm = tiny.parts.vae.bn
        deviation = torch.sqrt(norm.running_var + tiny.parts.vae.config.batch_norm_eps)
        clean = clean * deviation.reshape(1, -1, 1, 1) + norm.running_mean.reshape(1, -1, 1, 1)
    torch.testing.assert_close(clean.flatten().sort().values, latents.flatten().sort().values, rtol=1e-4, atol=1e-4)
