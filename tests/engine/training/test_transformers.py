"""Training on the families with a transformer: the objectives of diffusers' scripts, and whole trainings.

The scripts are run with --weighting_scheme logit_normal, which is the default of SD3's only.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, FluxPipeline, QwenImagePipeline
from diffusers.training_utils import compute_loss_weighting_for_sd3

from engine import families
from engine.lora.files import read_lora
from engine.settings import TrainSettings
from engine.training import samples
from engine.training.__main__ import train_lora
from engine.training.objective import flow_losses, logit_normal, training_schedule
from engine.workspace import Workspace
from tests.engine.training.test_main import work_for
from tests.tiny import SIDE_PX
from tests.tiny_transformers import KINDS

PLACES = torch.tensor([0, 250, 700, 999])


@pytest.fixture(scope="module", params=KINDS)
def models_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    KINDS[request.param].make(folder / "tiny")
    return folder


@pytest.fixture
def tiny_flow(models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> families.Base:
    monkeypatch.setenv("TRIPOD_MODELS", str(models_folder))
    return families.base("tiny")


def get_sigmas(noise_scheduler: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """As all of the scripts have it."""
    step_indices = [(noise_scheduler.timesteps == t).nonzero().item() for t in timesteps]
    return noise_scheduler.sigmas[step_indices].flatten().reshape(-1, 1, 1, 1)


def flux_script_loss(parts: Any, scheduler: Any, batch: dict[str, torch.Tensor], embeds: families.Embeds) -> Any:
    """As the step of diffusers' examples/dreambooth/train_dreambooth_lora_flux.py defines it, at --guidance_scale 1."""
    transformer = parts.transformer
    model_input, noise = batch["latents"], batch["noise"]
    height, width = model_input.shape[2:]
    latent_image_ids = FluxPipeline._prepare_latent_image_ids(4, height // 2, width // 2, "cpu", torch.float32)
    timesteps = scheduler.timesteps[batch["places"]]
    sigmas = get_sigmas(scheduler, timesteps)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    packed = FluxPipeline._pack_latents(noisy_model_input, 4, model_input.shape[1], height, width)
    guidance = torch.tensor([1.0]).expand(4) if transformer.config.guidance_embeds else None
    model_pred = transformer(
        hidden_states=packed,
        timestep=timesteps / 1000,
        guidance=guidance,
        pooled_projections=embeds["pooled_prompt_embeds"],
        encoder_hidden_states=embeds["prompt_embeds"],
        txt_ids=torch.zeros(embeds["prompt_embeds"].shape[1], 3),
        img_ids=latent_image_ids,
        return_dict=False,
    )[0]
    model_pred = FluxPipeline._unpack_latents(model_pred, height * 8, width * 8, 8)
    weighting = compute_loss_weighting_for_sd3(weighting_scheme="logit_normal", sigmas=sigmas)
    return mean_of(weighting, model_pred, noise - model_input)


def mean_of(weighting: torch.Tensor, model_pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    squares = weighting.float() * (model_pred.float() - target.float()) ** 2
    return torch.mean(squares.reshape(target.shape[0], -1), 1).mean()


def sd3_script_loss(parts: Any, scheduler: Any, batch: dict[str, torch.Tensor], embeds: families.Embeds) -> Any:
    """As in diffusers' examples/dreambooth/train_dreambooth_lora_sd3.py, which preconditions outputs by default."""
    model_input, noise = batch["latents"], batch["noise"]
    timesteps = scheduler.timesteps[batch["places"]]
    sigmas = get_sigmas(scheduler, timesteps)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    model_pred = parts.transformer(
        hidden_states=noisy_model_input,
        timestep=timesteps,
        encoder_hidden_states=embeds["prompt_embeds"],
        pooled_projections=embeds["pooled_prompt_embeds"],
        return_dict=False,
    )[0]
    model_pred = model_pred * (-sigmas) + noisy_model_input
    weighting = compute_loss_weighting_for_sd3(weighting_scheme="logit_normal", sigmas=sigmas)
    return mean_of(weighting, model_pred, model_input)


def z_image_script_loss(parts: Any, scheduler: Any, batch: dict[str, torch.Tensor], embeds: families.Embeds) -> Any:
    """As in diffusers' examples/dreambooth/train_dreambooth_lora_z_image.py."""
    model_input, noise = batch["latents"], batch["noise"]
    prompt_embeds = [text[mask] for text, mask in zip(*embeds.values(), strict=True)]
    timesteps = scheduler.timesteps[batch["places"]]
    sigmas = get_sigmas(scheduler, timesteps)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    timestep_normalized = (1000 - timesteps) / 1000
    noisy_model_input_list = list(noisy_model_input.unsqueeze(2).unbind(dim=0))
    model_pred_list = parts.transformer(noisy_model_input_list, timestep_normalized, prompt_embeds, return_dict=False)[
        0
    ]
    model_pred = -torch.stack(model_pred_list, dim=0).squeeze(2)
    weighting = compute_loss_weighting_for_sd3(weighting_scheme="logit_normal", sigmas=sigmas)
    return mean_of(weighting, model_pred, noise - model_input)


def qwen_image_script_loss(parts: Any, scheduler: Any, batch: dict[str, torch.Tensor], embeds: families.Embeds) -> Any:
    """As in diffusers' examples/dreambooth/train_dreambooth_lora_qwen_image.py; latents there are those of videos."""
    model_input, noise = batch["latents"].unsqueeze(2), batch["noise"].unsqueeze(2)
    timesteps = scheduler.timesteps[batch["places"]]
    sigmas = get_sigmas(scheduler, timesteps).unsqueeze(-1)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    _, channels, _, height, width = model_input.shape
    packed = QwenImagePipeline._pack_latents(noisy_model_input.permute(0, 2, 1, 3, 4), 4, channels, height, width)
    model_pred = parts.transformer(
        hidden_states=packed,
        encoder_hidden_states=embeds["prompt_embeds"],
        encoder_hidden_states_mask=embeds["prompt_embeds_mask"],
        timestep=timesteps / 1000,
        img_shapes=[(1, height // 2, width // 2)] * 4,
        return_dict=False,
    )[0]
    model_pred = QwenImagePipeline._unpack_latents(model_pred, height * 8, width * 8, 8)
    weighting = compute_loss_weighting_for_sd3(weighting_scheme="logit_normal", sigmas=sigmas)
    return mean_of(weighting, model_pred, noise - model_input)


def flux2_script_loss(parts: Any, scheduler: Any, batch: dict[str, torch.Tensor], embeds: families.Embeds) -> Any:
    """As in diffusers' examples/dreambooth/train_dreambooth_lora_flux2_klein.py, but for its --text_encoder_out_layers:
    10, 20 and 30 by default, where its pipeline reads 9, 18 and 27."""
    model_input, noise = batch["latents"], batch["noise"]
    model_input_ids = Flux2KleinPipeline._prepare_latent_ids(model_input)
    text_ids = Flux2KleinPipeline._prepare_text_ids(embeds["prompt_embeds"])
    timesteps = scheduler.timesteps[batch["places"]]
    sigmas = get_sigmas(scheduler, timesteps)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    packed = Flux2KleinPipeline._pack_latents(noisy_model_input)
    model_pred = parts.transformer(
        hidden_states=packed,
        timestep=timesteps / 1000,
        guidance=None,
        encoder_hidden_states=embeds["prompt_embeds"],
        txt_ids=text_ids,
        img_ids=model_input_ids,
        return_dict=False,
    )[0]
    model_pred: Any = Flux2KleinPipeline._unpack_latents_with_ids(model_pred[:, : packed.size(1)], model_input_ids)
    weighting = compute_loss_weighting_for_sd3(weighting_scheme="logit_normal", sigmas=sigmas)
    return mean_of(weighting, model_pred, noise - model_input)


SCRIPTS = {
    "flux": flux_script_loss,
    "sd3": sd3_script_loss,
    "z_image": z_image_script_loss,
    "qwen_image": qwen_image_script_loss,
    "flux2": flux2_script_loss,
}


ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
JOINT_ATTENTION = (*ATTENTION, "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
MLPS = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
SINGLE_BLOCKS = 24
SCRIPT_TARGETS = {
    "sd3": {f"attn.{name}" for name in JOINT_ATTENTION},
    "flux": {*(f"attn.{name}" for name in JOINT_ATTENTION), *MLPS},
    "z_image": {*ATTENTION},
    "qwen_image": {*ATTENTION},
    "flux2": {
        *(*ATTENTION, "to_qkv_mlp_proj"),
        *(f"single_transformer_blocks.{n}.attn.to_out" for n in range(SINGLE_BLOCKS)),
    },
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_layers_with_a_lora_are_those_of_the_script(name: str) -> None:
    more = {f"single_transformer_blocks.{n}.attn.to_out" for n in range(SINGLE_BLOCKS, 48)}  # of larger ones than klein
    assert set(families.FAMILIES[name].spec.lora_targets) - more == SCRIPT_TARGETS[name]


def script_latents(name: str, vae: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """As the scripts have it, of the mean where some of them draw from the posterior."""
    if name == "qwen_image":
        latents_mean = torch.tensor(vae.config.latents_mean).view(1, vae.config.z_dim, 1, 1, 1)
        latents_std = 1.0 / torch.tensor(vae.config.latents_std).view(1, vae.config.z_dim, 1, 1, 1)
        return ((vae.encode(pixel_values.unsqueeze(2)).latent_dist.mode() - latents_mean) * latents_std).squeeze(2)
    model_input = vae.encode(pixel_values).latent_dist.mode()
    if name == "flux2":
        latents_bn_mean = vae.bn.running_mean.view(1, -1, 1, 1)
        latents_bn_std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return (Flux2KleinPipeline._patchify_latents(model_input) - latents_bn_mean) / latents_bn_std
    return (model_input - vae.config.shift_factor) * vae.config.scaling_factor


def test_latents_are_those_of_the_script(tiny_flow: families.Base) -> None:
    parts: Any = families.family(tiny_flow.family).load(tiny_flow, torch.float32, "cpu")
    pixels = torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = script_latents(tiny_flow.family, parts.vae, pixels)
        torch.testing.assert_close(parts.latents_of(pixels), expected, rtol=1e-5, atol=1e-6)


def test_loss_and_gradients_are_those_of_the_script(tiny_flow: families.Base) -> None:
    family = families.family(tiny_flow.family)
    parts: Any = family.load(tiny_flow, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        embeds = family.encode(family.pipeline(parts, "default"), ["a", "a mug", "a red mug", None])
        shape = parts.latents_of(torch.zeros(4, 3, SIDE_PX, SIDE_PX)).shape
    batch = {name: torch.randn(shape, generator=generator) for name in ("latents", "noise")} | {"places": PLACES}
    parts.transformer.requires_grad_(True)
    parameters = list(parts.transformer.parameters())

    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tiny_flow.source, subfolder="scheduler")
    expected = SCRIPTS[tiny_flow.family](parts, scheduler, batch, embeds)
    expected_gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    predict = partial(family.predict, parts, embeds=embeds, sizes=torch.zeros(4, 6))
    schedule = training_schedule(parts.scheduler)
    loss = flow_losses(predict, schedule, objective=tiny_flow.spec.objective, **batch).mean()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert sum(gradient is not None for gradient in gradients) > len(parameters) / 2
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient is None) == (expected_gradient is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_timesteps_are_logit_normal() -> None:
    """Against the fractions that torch's normal distribution gives."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    places = logit_normal(torch.arange(1000), scheduler)
    assert places.min() >= 0
    assert places.max() < 1000
    normal = torch.distributions.Normal(0.0, 1.0)
    for fraction in (0.1, 0.3, 0.5, 0.8):
        expected = normal.cdf(torch.logit(torch.tensor(fraction))).item()
        assert (places < fraction * 1000).float().mean().item() == pytest.approx(expected, abs=0.002)


def test_the_lora_gives_the_live_picture_in_plain_diffusers(
    tiny_flow: families.Base, workspace: Workspace, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "STEPS", 3)
    settings = settings.replace(base="tiny", learning_rate=0.2, steps=3, batch_size=2, sample_prompts=("a red mug",))
    if tiny_flow.spec.trained_text_encoders:
        settings = settings.replace(text_encoder_learning_rate=0.1)
    result = train_lora(work_for(workspace, settings, "whole"))

    record = workspace.lora(result["lora"])
    assert (record.family, record.base, record.rank) == (tiny_flow.family, "tiny", 4)
    kind = KINDS[tiny_flow.family]
    import diffusers

    pipeline: Any = getattr(diffusers, tiny_flow.spec.pipeline).from_pretrained(tiny_flow.source)
    pipeline.set_progress_bar_config(disable=True)
    asked = samples.sample_settings(tiny_flow)

    def draw() -> np.ndarray:
        return pipeline(
            prompt="a red mug",
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=3,
            generator=[torch.Generator().manual_seed(samples.SEED)],
            output_type="np",
            **kind.inputs(asked),
        ).images[0]

    without = draw()
    pipeline.load_lora_weights(workspace.lora_path(record.id))
    expected = draw()
    live = np.asarray(workspace.image(record.samples[0])) / 255
    assert np.abs(live - expected).max() < 1.5 / 255
    assert np.abs(without - expected).max() > 2 / 255

    own = read_lora(workspace.lora_path(record.id), tiny_flow)
    learnt = {name.partition(".")[0] for name, network in own.layers.items() if network.matrix("cpu").any()}
    assert learnt == {"transformer", *tiny_flow.spec.trained_text_encoders}
    for_others = read_lora(workspace.lora_download(record.id), tiny_flow)
    for layer, network in own.layers.items():
        weight = torch.zeros(network.shape)
        other = for_others.layers.get(layer)  # what learnt nothing is left out, as at the end of the text's stream
        change = other.delta(weight) if other else weight
        torch.testing.assert_close(change, network.delta(weight), rtol=1e-5, atol=1e-7)
    assert len(for_others.layers) > len(own.layers) / 2
