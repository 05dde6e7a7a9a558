"""What a denoiser learns: noise or velocity, weighted by min-SNR-gamma, or the direction of a flow.

The losses of diffusers' `train_text_to_image_lora.py` and `train_text_to_image_lora_sdxl.py` and, with flows, of its
`train_dreambooth_lora_*.py` for SD3, Flux, FLUX.2 klein, Qwen-Image and Z-Image with `--weighting_scheme logit_normal`:
the default of SD3's, and what OneTrainer and ai-toolkit do for Flux; the other scripts draw noise levels evenly. It
knows nothing of photos, captions, LoRAs or optimizers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.families.base import Objective

if TYPE_CHECKING:
    from torch import Tensor

    Predict = Callable[[Tensor, Tensor], Tensor]
    """From noisy latents (b, c, h, w) and timesteps (b,) to what the denoiser says of them, (b, c, h, w)."""


def training_schedule(scheduler: Any) -> Any:
    """The forward process of a base, from the configuration of whatever scheduler it samples with."""
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    return (FlowMatchEulerDiscreteScheduler if is_flow else DDPMScheduler).from_config(scheduler.config)


def losses(
    predict: "Predict",
    schedule: Any,
    objective: Objective,
    *,
    latents: "Tensor",
    noise: "Tensor",
    timesteps: "Tensor",
    min_snr_gamma: float,
) -> "Tensor":
    """The loss of every example, (b,), by the objective; see there."""
    if objective != "denoising":
        places = logit_normal(timesteps, schedule)
        return flow_losses(predict, schedule, objective=objective, latents=latents, noise=noise, places=places)
    return denoising_losses(
        predict, schedule, latents=latents, noise=noise, timesteps=timesteps, min_snr_gamma=min_snr_gamma
    )


def min_snr_weights(snr: "Tensor", prediction_type: str, gamma: float) -> "Tensor":
    """Weights of the squared error by min-SNR-gamma (Hang et al., arXiv 2303.09556, section 3.4).

    min(SNR, gamma) / SNR for a predicted noise, whose limit at SNR 0 is 1; min(SNR, gamma) / (SNR + 1) for a velocity.
    With gamma 0 nothing is weighted.

    Args:
        snr: (b,), at least 0.
        prediction_type: "epsilon" or "v_prediction".
    """
    if gamma == 0:
        return snr.new_ones(snr.shape)
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1)


def denoising_losses(
    predict: "Predict", schedule: Any, *, latents: "Tensor", noise: "Tensor", timesteps: "Tensor", min_snr_gamma: float
) -> "Tensor":
    """Mean squared error of the prediction, weighted by min-SNR-gamma, for every example, (b,).

    Args:
        schedule: as `training_schedule` gives it; its `prediction_type` says what is predicted.
        latents, noise: (b, c, h, w), latents as the denoiser sees them (scaled).
        timesteps: (b,), integers from 0 to `num_train_timesteps` - 1.
    """
    from diffusers.training_utils import compute_snr

    noisy = schedule.add_noise(latents, noise, timesteps)
    prediction_type = schedule.config.prediction_type
    target = noise if prediction_type == "epsilon" else schedule.get_velocity(latents, noise, timesteps)
    errors = _squared_errors(predict(noisy, timesteps), target)
    return errors * min_snr_weights(compute_snr(schedule, timesteps), prediction_type, min_snr_gamma)


def flow_losses(
    predict: "Predict", schedule: Any, *, objective: Objective, latents: "Tensor", noise: "Tensor", places: "Tensor"
) -> "Tensor":
    """Mean squared error of the predicted direction v = e - x0 at x = (1 - sigma) x0 + sigma e (Esser et al., arXiv
    2403.03206, section 2), for every example, (b,). With the objective "flow to clean" that of x - sigma v, which
    should be x0.

    Args:
        schedule: as `training_schedule` gives it, which may have its sigmas shifted.
        latents, noise: (b, c, h, w), latents as the denoiser sees them (shifted and scaled).
        places: (b,), integers: which of the schedule's timesteps, from the noisiest on.
    """
    timesteps, sigmas = (steps.to(latents.device)[places] for steps in (schedule.timesteps, schedule.sigmas))
    sigma = sigmas.reshape(-1, 1, 1, 1).to(latents.dtype)
    noisy = (1 - sigma) * latents + sigma * noise
    direction = predict(noisy, timesteps)
    if objective == "flow to clean":
        return _squared_errors(noisy - sigma * direction, latents)
    return _squared_errors(direction, noise - latents)


def logit_normal(timesteps: "Tensor", schedule: Any) -> "Tensor":
    """Uniform places in a schedule as ones whose fraction of it has a normal logit: more in the middle (arXiv
    2403.03206, section 3.1)."""
    import torch

    count = schedule.config.num_train_timesteps
    fractions = torch.sigmoid(torch.special.ndtri((timesteps + 0.5) / count))
    return (fractions * count).long()


def _squared_errors(prediction: "Tensor", target: "Tensor") -> "Tensor":
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
