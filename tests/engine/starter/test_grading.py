"""Gradings against their closed form on flat pictures."""

import torch
from torch import Tensor

from engine.starter.grading import MIXED_SHARE, UNCHANGED_SHARE, Gradings, graded, random_gradings


def grey(level: float) -> Tensor:
    return torch.full((1, 3, 2, 2), 2 * level - 1)


def gradings(*, toned: bool, stretched: bool = False) -> Gradings:
    return Gradings(
        gamma=torch.ones(1),
        matrix=torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]),
        tones=torch.tensor([[[0.0, 0.2, 0.3], [0.5, 0.6, 0.4], [1.0, 0.9, 0.8]]]),
        toned=torch.tensor([toned]),
        stretched=torch.tensor([stretched]),
    )


def test_dark_middle_and_light_become_the_three_tones_and_lines_join_them() -> None:
    tones = gradings(toned=True).tones[0]
    for level, tone in ((0.0, tones[0]), (0.25, (tones[0] + tones[1]) / 2), (0.5, tones[1]), (1.0, tones[2])):
        after = (graded(grey(level), gradings(toned=True)) + 1) / 2
        torch.testing.assert_close(after[0, :, 0, 0], tone)


def test_full_contrast_makes_the_darkest_and_the_lightest_the_outer_tones() -> None:
    """A fifth is as dark as 0.4, a fifth as light as 0.8, the rest half way between."""
    levels = torch.full((40, 40), 0.6)
    levels[:8], levels[-8:] = 0.4, 0.8
    after = (graded(2 * levels.expand(1, 3, 40, 40) - 1, gradings(toned=True, stretched=True)) + 1) / 2
    for row, tone in zip((0, 20, 39), gradings(toned=True).tones[0], strict=True):
        torch.testing.assert_close(after[0, :, row, 0], tone)


def test_the_matrix_mixes_the_channels() -> None:
    picture = torch.tensor([0.5, -0.5, 0.1])[None, :, None, None].expand(1, 3, 2, 2)
    torch.testing.assert_close(graded(picture, gradings(toned=False)), picture.flip(1))


def test_some_pictures_stay_as_they_are_and_all_stay_in_range() -> None:
    count = 400
    pictures = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = random_gradings(count, torch.Generator().manual_seed(1))
    after = graded(pictures, drawn)
    same = (after - pictures).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert abs(same.float().mean() - UNCHANGED_SHARE) < 0.07
    assert abs(drawn.toned.float().mean() - (1 - UNCHANGED_SHARE - MIXED_SHARE)) < 0.07
    assert after.abs().max() <= 1
    assert torch.equal(drawn.tones, drawn.tones.clamp(0, 1))
