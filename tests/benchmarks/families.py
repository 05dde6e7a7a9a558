"""`python -m tests.benchmarks.families [--quick]`: every family against plain diffusers, on a small random model of it.

The models have the real architecture and folder layout; what is measured is the studio's own loading, generation and
objective. The last line is a JSON object, by family:

- `bit_equal`: the plain picture is diffusers' to the last bit;
- `lora`, `controlnet`, `ip_adapter`: so it is with that attached;
- `loss_rtol`: how far the training loss is from the definition in diffusers' training script, relative to it;
- `seconds`: how long all that took.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from engine import families
from engine.adapters import Control, Lora, Style, attach
from engine.adapters.ip_adapter import embed
from engine.generation import render
from engine.lora.files import read_lora
from engine.settings import GenerateSettings
from engine.training.objective import denoising_losses, flow_losses, training_schedule
from tests.engine.training.test_transformers import SCRIPTS
from tests.tiny import SIDE_PX, make_tiny_base, make_tiny_lora, make_tiny_sdxl
from tests.tiny_transformers import KINDS as KINDS_WITH_TRANSFORMERS
from tests.tiny_transformers import Kind, make_tiny_transformer_lora

ABSENT = "not in this family"
LORA_WEIGHT, STRENGTH, STYLE_WEIGHT = 0.7, 0.8, 0.6
SIZE = (70, 80, 0, 5, SIDE_PX, SIDE_PX)


def _load_ip_adapter(pipeline: Any, folder: Path) -> None:
    pipeline.load_ip_adapter(str(folder), subfolder="ip_adapter", weight_name="ip-adapter.safetensors")


def _with_unet(make: Callable[[Path], Path], controlnet_pipeline: str) -> Kind:
    return Kind(
        make=make,
        inputs=lambda settings: {
            "negative_prompt": settings.negative_prompt,
            "guidance_scale": settings.guidance_scale,
        },
        guided={},
        controlnet=(controlnet_pipeline, "ControlNetModel"),
        control_argument="image",
        load_ip_adapter=_load_ip_adapter,
    )


KINDS = {
    "sd15": _with_unet(make_tiny_base, "StableDiffusionControlNetPipeline"),
    "sdxl": _with_unet(make_tiny_sdxl, "StableDiffusionXLControlNetPipeline"),
    **KINDS_WITH_TRANSFORMERS,
}


def measure(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """All figures of one family; its tiny base is written into `folder`, which TRIPOD_MODELS names."""
    began_s = time.perf_counter()
    kind, family = KINDS[name], families.family(name)
    kind.make(folder / f"tiny-{name}")
    base = families.base(f"tiny-{name}")
    parts = family.load(base, torch.float32, "cpu")
    settings = GenerateSettings(
        prompt="a red mug", negative_prompt="blue", width=SIDE_PX, height=SIDE_PX, steps=steps, guidance_scale=4.0
    ).replace(**kind.guided)

    def ours(**attachments: Any) -> np.ndarray:
        with attach(parts, **attachments) as attached:
            return np.asarray(render(family.pipeline(parts, "default"), settings, base, attached=attached))

    def theirs(pipeline: Any, **inputs: Any) -> np.ndarray:
        pipeline.set_progress_bar_config(disable=True)
        torch.manual_seed(settings.seed)  # some pipelines draw from torch's own generator too
        picture = pipeline(
            prompt=settings.prompt,
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            generator=torch.Generator().manual_seed(settings.seed),
            **kind.inputs(settings),
            **kind.negative(pipeline, settings),
            **inputs,
        ).images[0]
        return np.asarray(picture)

    def plain(class_name: str = base.spec.pipeline, **models: Any) -> Any:
        return getattr(diffusers, class_name).from_pretrained(base.source, **models)

    def with_lora() -> bool:
        make = make_tiny_lora if base.spec.denoiser == "unet" else make_tiny_transformer_lora
        file = make(Path(base.source), folder.parent / f"{name}.safetensors")
        pipeline = plain()
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="lora")
        pipeline.set_adapters(["lora"], [LORA_WEIGHT])
        return np.array_equal(ours(loras=[Lora(file=read_lora(file, base), weight=LORA_WEIGHT)]), theirs(pipeline))

    def with_controlnet(pipeline_class: str, model_class: str) -> bool:
        controlnet = family.load_controlnet(base, "canny", torch.float32, "cpu")
        own = getattr(diffusers, model_class).from_pretrained(base.controlnets["canny"])
        pipeline = plain(pipeline_class, controlnet=own)
        inputs = {kind.control_argument: noise(1), "controlnet_conditioning_scale": STRENGTH}
        control = Control(controlnet=controlnet, image=noise(1), kind="canny", strength=STRENGTH)
        return np.array_equal(ours(controls=[control]), theirs(pipeline, **inputs))

    def with_ip_adapter(load: Callable[[Any, Path], None]) -> bool:
        adapter = family.load_ip_adapter(base, torch.float32, "cpu")
        pipeline = plain()
        load(pipeline, Path(base.source))
        pipeline.set_ip_adapter_scale(STYLE_WEIGHT)
        style = Style(adapter=adapter, embedding=embed(adapter, noise(2)), weight=STYLE_WEIGHT)
        return np.array_equal(ours(styles=[style]), theirs(pipeline, ip_adapter_image=noise(2)))

    return {
        "bit_equal": np.array_equal(ours(), theirs(plain())),
        "loss_rtol": loss_rtol(family, parts),
        "lora": with_lora(),
        "controlnet": with_controlnet(*kind.controlnet) if kind.controlnet else ABSENT,
        "ip_adapter": with_ip_adapter(kind.load_ip_adapter) if kind.load_ip_adapter else ABSENT,
        "seconds": round(time.perf_counter() - began_s, 1),
    }


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))


def loss_rtol(family: families.Family, parts: Any) -> float:
    """Of the mean squared error, without weights, against the definition of the family's script."""
    generator = torch.Generator().manual_seed(0)
    schedule = training_schedule(parts.scheduler)
    with torch.no_grad():
        embeds = family.encode(family.pipeline(parts, "default"), ["a", "a mug", "a red mug", "a mug on a table"])
        shape = parts.latents_of(torch.zeros(4, 3, SIDE_PX, SIDE_PX)).shape
        latents, noise = torch.randn(2, *shape, generator=generator)
        steps = torch.tensor([20, 300, 600, 980])
        predict = partial(family.predict, parts, embeds=embeds, sizes=torch.tensor([SIZE] * 4))
        batch = {"latents": latents, "noise": noise}
        if family.spec.name in SCRIPTS:
            flow = {**batch, "places": steps}
            ours = flow_losses(predict, schedule, objective=family.spec.objective, **flow).mean()
            expected = SCRIPTS[family.spec.name](parts, training_schedule(parts.scheduler), flow, embeds)
        else:
            ours = denoising_losses(predict, schedule, **batch, timesteps=steps, min_snr_gamma=0).mean()
            expected = unet_script_loss(parts, {**batch, "timesteps": steps}, embeds)
    return float(f"{abs(ours / expected - 1).item():.1e}")


def unet_script_loss(parts: Any, batch: dict[str, torch.Tensor], embeds: families.Embeds) -> torch.Tensor:
    """As diffusers' examples/text_to_image/train_text_to_image_lora.py and its brother for XL define it."""
    schedule: Any = diffusers.DDPMScheduler.from_config(parts.scheduler.config)
    latents, noise, timesteps = batch.values()
    inputs: dict[str, Any] = {}
    if parts.unet.config.addition_embed_type == "text_time":
        time_ids = torch.tensor([SIZE] * 4, dtype=torch.float32)
        inputs["added_cond_kwargs"] = {"text_embeds": embeds["pooled_prompt_embeds"], "time_ids": time_ids}
    noisy = schedule.add_noise(latents, noise, timesteps)
    prediction = parts.unet(noisy, timesteps, embeds["prompt_embeds"], **inputs, return_dict=False)[0]
    predicts_noise = schedule.config.prediction_type == "epsilon"
    target = noise if predicts_noise else schedule.get_velocity(latents, noise, timesteps)
    return torch.nn.functional.mse_loss(prediction, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two steps instead of eight")
    steps = 2 if parser.parse_args().quick else 8
    torch.set_num_threads(1)  # the models are too small for more
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary, "models")
        models.mkdir()
        os.environ["TRIPOD_MODELS"] = str(models)
        figures = {name: measure(name, models, steps) for name in KINDS}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
