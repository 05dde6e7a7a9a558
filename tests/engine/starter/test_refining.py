"""Where the noise of refining lies."""

import torch

from engine.starter.refining import MIDDLE, MIDDLE_SHARE, middle_timesteps


def test_most_timesteps_are_in_the_middle_and_evenly_there() -> None:
    timesteps = middle_timesteps(4000, torch.Generator().manual_seed(0))
    assert set((timesteps // 1000).tolist()) == {0}
    first, last = MIDDLE
    outside = ((timesteps < first) | (timesteps >= last)).float().mean()
    # Those that are spread as in training are outside as often as t = 1000 u^(1 / 1.5) is.
    spread_outside = 1 - (last / 1000) ** 1.5 + (first / 1000) ** 1.5
    assert abs(outside - (1 - MIDDLE_SHARE) * spread_outside) < 0.02
    inside = timesteps[(timesteps >= first) & (timesteps < last)].float()
    assert abs(inside.mean() - (first + last) / 2) < 15
