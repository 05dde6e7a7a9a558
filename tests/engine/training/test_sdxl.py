"""Training on Stable Diffusion XL: the objective of diffusers' script written out, and a whole training."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file

from engine import families
from engine.families.unet import UNetComponents
from engine.lora.files import read_lora
from engine.settings import CropBox, TrainSettings
from engine.training import samples
from engine.training.__main__ import train_lora
from engine.training.data import batch_of_step, prepare, size_conditions
from engine.training.objective import denoising_losses, training_schedule
from engine.workspace import Photo, Workspace
from tests.engine.training.test_main import work_for
from tests.tiny import SDXL_SCHEDULER, SDXL_UNET, SIDE_PX, make_tiny_sdxl

FAMILY = families.family("sdxl")


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_sdxl(folder / "tiny")
    return folder


@pytest.fixture
def tiny_xl(models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> families.Base:
    monkeypatch.setenv("TRIPOD_MODELS", str(models_folder))
    return families.base("tiny")


@pytest.fixture
def xl_settings(settings: TrainSettings) -> TrainSettings:
    return settings.replace(base="tiny")


def script_loss(
    unet: Any, noise_scheduler: Any, batch: dict[str, Any], snr_gamma: float, resolution: int
) -> torch.Tensor:
    """As the step of diffusers' examples/text_to_image/train_text_to_image_lora_sdxl.py defines it."""
    model_input, noise, timesteps = batch["latents"], batch["noise"], batch["timesteps"]
    noisy_model_input = noise_scheduler.add_noise(model_input, noise, timesteps)
    target_size = (resolution, resolution)
    add_time_ids = torch.stack(
        [
            torch.tensor([*original_size, *crop_top_left, *target_size], dtype=torch.float32)
            for original_size, crop_top_left in zip(batch["original_sizes"], batch["crop_top_lefts"], strict=True)
        ]
    )
    unet_added_conditions = {"time_ids": add_time_ids, "text_embeds": batch["pooled_prompt_embeds"]}
    model_pred = unet(
        noisy_model_input,
        timesteps,
        batch["prompt_embeds"],
        added_cond_kwargs=unet_added_conditions,
        return_dict=False,
    )[0]
    if noise_scheduler.config.prediction_type == "epsilon":
        target = noise
    else:
        target = noise_scheduler.get_velocity(model_input, noise, timesteps)
    if snr_gamma == 0:
        return F.mse_loss(model_pred.float(), target.float(), reduction="mean")
    snr = compute_snr(noise_scheduler, timesteps)
    mse_loss_weights = torch.stack([snr, snr_gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    if noise_scheduler.config.prediction_type == "epsilon":
        mse_loss_weights = mse_loss_weights / snr
    else:
        mse_loss_weights = mse_loss_weights / (snr + 1)
    loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
    return (loss.mean(dim=list(range(1, len(loss.shape)))) * mse_loss_weights).mean()


@pytest.mark.parametrize("gamma", [0.0, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_and_gradients_are_those_of_the_script(prediction_type: str, gamma: float) -> None:
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**SDXL_UNET)
    config: dict[str, Any] = SDXL_SCHEDULER | {"prediction_type": prediction_type}
    generator = torch.Generator().manual_seed(1)
    batch = {name: torch.randn(4, 4, 8, 8, generator=generator) for name in ("latents", "noise")}
    batch["timesteps"] = torch.tensor([0, 20, 500, 999])
    embeds = {
        "prompt_embeds": torch.randn(4, 48, 40, generator=generator),
        "pooled_prompt_embeds": torch.randn(4, 24, generator=generator),
    }
    original_sizes = [(70, 80), (512, 512), (1024, 683), (64, 64)]
    crop_top_lefts = [(0, 5), (0, 0), (300, 0), (1, 2)]
    sizes = torch.tensor([(*o, *c, 64, 64) for o, c in zip(original_sizes, crop_top_lefts, strict=True)])

    everything = {**batch, **embeds, "original_sizes": original_sizes, "crop_top_lefts": crop_top_lefts}
    expected = script_loss(unet, DDPMScheduler.from_config(config), everything, gamma, resolution=64)
    expected_gradients = torch.autograd.grad(expected, list(unet.parameters()))
    none: dict[str, Any] = dict.fromkeys(("unet", "vae", "text_encoder", "tokenizer", "scheduler"))
    loss = denoising_losses(
        partial(FAMILY.predict, UNetComponents(**none | {"unet": unet}), embeds=embeds, sizes=sizes),
        training_schedule(EulerDiscreteScheduler(**config)),
        **batch,
        min_snr_gamma=gamma,
    ).mean()
    gradients = torch.autograd.grad(loss, list(unet.parameters()))

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_texts_are_those_of_diffusers_and_a_dropped_caption_is_none(
    tiny_xl: families.Base, workspace: Workspace, xl_settings: TrainSettings
) -> None:
    photos = workspace.dataset(xl_settings.dataset).photos
    parts = FAMILY.load(tiny_xl, torch.float32, "cpu")
    settings = xl_settings.replace(held_out_photos=2, caption_dropout=1.0)

    data = prepare(parts, photos, ["a red mug"], settings, workspace=workspace)

    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(tiny_xl.source)
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt("a red mug", do_classifier_free_guidance=False)
        # what diffusers guides away from when no negative prompt is given
        _, nothing, _, pooled_nothing = pipeline.encode_prompt("a red mug", do_classifier_free_guidance=True)
    prompt = data.texts(data.prompts)
    torch.testing.assert_close(prompt["prompt_embeds"], embeds)
    torch.testing.assert_close(prompt["pooled_prompt_embeds"], pooled)
    dropped = data.texts(batch_of_step(0, data.latents, settings, 1000).captions[:1])
    assert torch.equal(dropped["prompt_embeds"], nothing)
    assert torch.equal(dropped["pooled_prompt_embeds"], pooled_nothing)
    # sizes follow the photo, whether its caption is dropped or not; 80 x 70 px, of which 64 px from (3, 5)
    assert data.sizes.tolist() == [[64, 73, 5, 3, 64, 64]] * 10
    assert data.held_out is not None
    assert data.held_out.photos.tolist() == [8] * 4 + [9] * 4


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        # As the script: the shorter side becomes the resolution, then the middle is cut out
        ((1600, 1200), None, (1200, 1600, 0, 171, 1024, 1024)),
        ((1200, 1600), CropBox(left_px=0, top_px=100, side_px=1200), (1600, 1200, 85, 0, 1024, 1024)),
        # A crop of 600 px shows what that of a photo of half the size would
        ((1600, 1200), CropBox(left_px=300, top_px=150, side_px=600), (600, 800, 256, 512, 1024, 1024)),
        # Past the border it is moved inside, as the pixels are
        ((1600, 1200), CropBox(left_px=1500, top_px=0, side_px=1200), (1200, 1600, 0, 341, 1024, 1024)),
    ],
)
def test_sizes_that_the_unet_is_told(size: tuple[int, int], crop: CropBox | None, expected: tuple[int, ...]) -> None:
    photo = Photo(id="p", file="p.png", image="0" * 64, width_px=size[0], height_px=size[1], crop=crop, caption="")
    assert size_conditions(photo, 1024) == expected


def test_the_lora_gives_the_live_picture_in_plain_diffusers(
    tiny_xl: families.Base, workspace: Workspace, xl_settings: TrainSettings
) -> None:
    """With both text encoders; what the second-to-last layer of the first is followed by learns nothing."""
    settings = xl_settings.replace(learning_rate=0.1, text_encoder_learning_rate=0.05, steps=12)
    result = train_lora(work_for(workspace, settings, "whole"))

    record = workspace.lora(result["lora"])
    assert (record.family, record.base, record.rank) == ("sdxl", "tiny", 4)
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(tiny_xl.source)
    pipeline.set_progress_bar_config(disable=True)

    def pictures() -> np.ndarray:
        return np.stack(
            [
                pipeline(
                    prompt,
                    width=SIDE_PX,
                    height=SIDE_PX,
                    num_inference_steps=samples.STEPS,
                    guidance_scale=tiny_xl.default_guidance,
                    generator=torch.Generator().manual_seed(samples.SEED + number),
                    output_type="np",
                ).images[0]
                for number, prompt in enumerate(samples.sample_prompts(settings))
            ]
        )

    without = pictures()
    pipeline.load_lora_weights(workspace.lora_path(record.id))
    expected = pictures()
    live = np.stack([np.asarray(workspace.image(sample)) / 255 for sample in record.samples])
    assert np.abs(live - expected).max() < 1.5 / 255
    assert np.abs(without - expected).max() > 10 / 255

    own = read_lora(workspace.lora_path(record.id), tiny_xl)
    for_others = read_lora(workspace.lora_download(record.id), tiny_xl)
    learnt = {name for name, network in own.layers.items() if network.matrix("cpu").any()}
    assert {name for name in own.layers.keys() - learnt if "text_encoder" in name} == {
        f"text_encoder.encoder.layers.1.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    for name, network in own.layers.items():
        weight = torch.zeros(network.shape)
        torch.testing.assert_close(for_others.layers[name].delta(weight), network.delta(weight), rtol=1e-6, atol=1e-9)
    starts = ("lora_te1_text_model_encoder_layers_0_self", "lora_te2_text_model_encoder_layers_1_self")
    names = load_file(workspace.lora_download(record.id))
    assert all(any(name.startswith(start) for name in names) for start in starts)
