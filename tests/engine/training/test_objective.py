"""The objective against diffusers' training script written out, and against closed forms."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr

from engine.training.objective import denoising_losses, min_snr_weights, training_schedule
from tests.tiny import SCHEDULER, UNET


@pytest.fixture
def unet() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET)


def says(unet: Any, text: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    return unet(noisy, timesteps, text).sample


def script_loss(unet: Any, noise_scheduler: Any, batch: dict[str, torch.Tensor], snr_gamma: float) -> torch.Tensor:
    """As in diffusers' examples/text_to_image/train_text_to_image.py."""
    latents, noise, timesteps = batch["latents"], batch["noise"], batch["timesteps"]
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    if noise_scheduler.config.prediction_type == "epsilon":
        target = noise
    else:
        target = noise_scheduler.get_velocity(latents, noise, timesteps)
    model_pred = unet(noisy_latents, timesteps, batch["text"], return_dict=False)[0]
    if snr_gamma == 0:
        return F.mse_loss(model_pred.float(), target.float(), reduction="mean")
    snr = compute_snr(noise_scheduler, timesteps)
    mse_loss_weights = torch.stack([snr, snr_gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    if noise_scheduler.config.prediction_type == "epsilon":
        mse_loss_weights = mse_loss_weights / snr
    else:
        mse_loss_weights = mse_loss_weights / (snr + 1)
    loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
    loss = loss.mean(dim=list(range(1, len(loss.shape)))) * mse_loss_weights
    return loss.mean()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_and_gradients_are_those_of_the_script(unet: Any, prediction_type: str, gamma: float) -> None:
    # With noise predicted, the script divides by an SNR that must not be zero
    zero_snr = prediction_type == "v_prediction"
    config: dict[str, Any] = SCHEDULER | {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    generator = torch.Generator().manual_seed(1)
    batch: dict[str, Any] = {
        "latents": torch.randn(4, 8, 8, 8, generator=generator),
        "noise": torch.randn(4, 8, 8, 8, generator=generator),
        "timesteps": torch.tensor([0, 20, 500, 999]),
    }
    text = torch.randn(4, 48, 32, generator=generator)

    expected = script_loss(unet, DDPMScheduler.from_config(config), batch | {"text": text}, gamma)
    expected_gradients = torch.autograd.grad(expected, list(unet.parameters()))
    schedule = training_schedule(DDIMScheduler(**config))
    loss = denoising_losses(partial(says, unet, text), schedule, **batch, min_snr_gamma=gamma).mean()
    gradients = torch.autograd.grad(loss, list(unet.parameters()))

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_weights_at_hand() -> None:
    snr = torch.tensor([0.0, 1.0, 5.0, 20.0])

    torch.testing.assert_close(min_snr_weights(snr, "epsilon", 5.0), torch.tensor([1.0, 1.0, 1.0, 0.25]))
    torch.testing.assert_close(min_snr_weights(snr, "v_prediction", 5.0), torch.tensor([0.0, 0.5, 5 / 6, 5 / 21]))
    torch.testing.assert_close(min_snr_weights(snr, "v_prediction", 0.0), torch.ones(4))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_last_step_without_signal_gives_a_finite_loss(unet: Any, prediction_type: str) -> None:
    config: dict[str, Any] = SCHEDULER | {"prediction_type": prediction_type}
    schedule = training_schedule(DDIMScheduler(**config))
    last = torch.tensor([schedule.config.num_train_timesteps - 1])
    assert compute_snr(schedule, last).item() == pytest.approx(0, abs=1e-12)

    losses = denoising_losses(
        partial(says, unet, torch.randn(1, 48, 32)),
        schedule,
        latents=torch.randn(1, 8, 8, 8),
        noise=torch.randn(1, 8, 8, 8),
        timesteps=last,
        min_snr_gamma=5.0,
    )
    losses.mean().backward()

    assert losses.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in unet.parameters())
