"""The training objective against the scheduler that samples with it."""

import torch

from engine.starter import denoiser
from engine.starter.perception import FIRST_THING


def test_noised_latents_and_velocity_are_the_schedulers() -> None:
    scheduler = denoiser.new_scheduler()
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 16, 4, 4, generator=generator)
    timesteps = torch.tensor([0, 100, 500, 900, 999])
    x_t, v, _ = denoiser.noised(latents, noise, scheduler.alphas_cumprod[timesteps])
    torch.testing.assert_close(x_t, scheduler.add_noise(latents, noise, timesteps))  # type: ignore[arg-type]
    torch.testing.assert_close(v, scheduler.get_velocity(latents, noise, timesteps))  # type: ignore[arg-type]


def test_the_last_timestep_is_pure_noise() -> None:
    assert denoiser.new_scheduler().alphas_cumprod[-1] == 0


def test_weight_caps_the_signal_to_noise_ratio() -> None:
    alpha_bar = torch.tensor([0.0, 0.5, 0.9, 0.999])
    _, _, weight = denoiser.noised(torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1), alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(weight, (snr + 1).clamp(max=10) / (snr + 1))


def test_timesteps_are_one_from_each_interval() -> None:
    timesteps = denoiser.spread_timesteps(10, torch.Generator().manual_seed(1))
    assert sorted((timesteps // 100).tolist()) == list(range(10))


def test_the_implied_x0_undoes_the_noise() -> None:
    alpha_bar = torch.tensor([0.0, 0.2, 0.7, 1.0])
    latents, noise = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    x_t, v, _ = denoiser.noised(latents, noise, alpha_bar)
    torch.testing.assert_close(denoiser.implied_x0(x_t, v, alpha_bar), latents)


def test_a_cell_of_a_thing_weighs_more_and_the_mean_stays_one() -> None:
    names = torch.zeros(2, 4, 4, dtype=torch.int64)
    names[0, :2, 0] = FIRST_THING
    names[1, 0, 0] = FIRST_THING - 1
    weight = denoiser.weight_of_cells(names)
    assert weight.shape == (2, 1, 4, 4)
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0))
    torch.testing.assert_close(weight[0, 0, 0, 0] / weight[1, 0, 0, 0], torch.tensor(denoiser.THING_WEIGHT))
