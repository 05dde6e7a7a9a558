"""What a denoiser learns: noise or velocity, weighted by min-SNR-gamma.

The loss of diffusers' `train_text_to_image_lora.py` and `train_text_to_image_lora_sdxl.py`. It knows nothing of photos,
captions, LoRAs or optimizers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def training_schedule(scheduler: Any) -> Any:
    """The forward process of a base, from the configuration of whatever scheduler it samples with."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler.config)


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
    unet: Any,
    schedule: Any,
    *,
    latents: "Tensor",
    noise: "Tensor",
    timesteps: "Tensor",
    text: "Tensor",
    added: "dict[str, Tensor] | None" = None,
    min_snr_gamma: float,
) -> "Tensor":
    """The loss of every example, (b,): mean squared error of the prediction, weighted by min-SNR-gamma.

    Args:
        schedule: as `training_schedule` gives it; its `prediction_type` says what the UNet predicts.
        latents, noise: (b, c, h, w), latents as the UNet sees them (scaled).
        timesteps: (b,), integers from 0 to `num_train_timesteps` - 1.
        text: (b, tokens, width).
        added: what the UNet takes besides, if anything, b of each.
    """
    from diffusers.training_utils import compute_snr

    noisy = schedule.add_noise(latents, noise, timesteps)
    prediction = unet(noisy, timesteps, text, added_cond_kwargs=added).sample
    prediction_type = schedule.config.prediction_type
    target = noise if prediction_type == "epsilon" else schedule.get_velocity(latents, noise, timesteps)
    errors = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
    return errors * min_snr_weights(compute_snr(schedule, timesteps), prediction_type, min_snr_gamma)
