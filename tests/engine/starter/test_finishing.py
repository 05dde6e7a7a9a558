"""What the decoder is finished on: redrawn latents, the same squares of pictures and latents, and an adversary."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.starter import redrawing
from engine.starter.adversary import Adversary
from engine.starter.decoder import reconstruction_loss
from engine.starter.denoiser import new_scheduler
from engine.starter.finishing import CELL_PX, crops
from engine.starter.latents import LatentCorpus
from engine.starter.text import MAX_TOKENS

torch.set_num_threads(1)


def test_a_denoiser_that_knows_the_picture_redraws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(16, 32, 32, generator=generator)
    alpha_bar = new_scheduler().alphas_cumprod

    def oracle(x: torch.Tensor, t: torch.Tensor, words: torch.Tensor) -> Any:
        a = alpha_bar[t]
        return SimpleNamespace(sample=(a.sqrt() * x - truth) / (1 - a).sqrt())

    monkeypatch.setattr(redrawing, "embed", lambda encoder, ids: ids)
    monkeypatch.setattr(redrawing, "empty_ids", lambda tokenizer: torch.zeros(MAX_TOKENS, dtype=torch.int64))
    data = LatentCorpus(
        latents={32: truth.half().expand(12, -1, -1, -1)},
        tokens=torch.zeros(12, 6, MAX_TOKENS, dtype=torch.int16),
        pairs=torch.tensor([0]),
        people=torch.tensor([0]),
    )
    nothing: Any = None
    drawn = redrawing.redraw(oracle, nothing, nothing, data, 30, generator)  # type: ignore[arg-type]
    assert len(drawn) == 30
    torch.testing.assert_close(drawn.latents.float(), truth.expand(30, -1, -1, -1), atol=4e-3, rtol=2e-3)
    # Two batches, each noised as far as one of the sampler's steps.
    steps = {round(alpha_bar[t].sqrt().item(), 5) for t in range(299, 1000, 100)}
    assert {round(left, 5) for left in drawn.left.tolist()} <= steps


def test_crops_of_pictures_and_latents_are_of_the_same_square() -> None:
    cells = torch.arange(32.0 * 32).reshape(1, 1, 32, 32).expand(5, 16, -1, -1) % 251
    images = cells[:, 0].repeat_interleave(CELL_PX, 1).repeat_interleave(CELL_PX, 2)
    images = images[..., None].expand(-1, -1, -1, 3).numpy().astype(np.uint8)
    latents, pixels = crops(images, cells, torch.Generator().manual_seed(0))
    shown = (pixels[:, 0, ::CELL_PX, ::CELL_PX] + 1) * 127.5
    torch.testing.assert_close(shown, latents[:, 0])
    assert len(latents[:, 0, 0, 0].unique()) > 1  # not all from one place


def test_reconstruction_loss_in_closed_form() -> None:
    target = torch.zeros(2, 3, 4, 4)
    decoded = target.clone()
    decoded[0] += 0.5  # no edges
    decoded[1, :, :, ::2] = 0.5  # edges of 0.5 across each column, none across rows
    torch.testing.assert_close(reconstruction_loss(decoded, target), torch.tensor([0.5 + 2 * 0.25, 0.25 + 0.25 + 0.5]))


def test_the_adversary_learns_what_is_real_of_each_look() -> None:
    torch.manual_seed(0)
    adversary = Adversary(2)
    generator = torch.Generator().manual_seed(0)
    looks = torch.tensor([0, 1] * 4)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        """Look 0 is bright and look 1 dark; made pictures have the other's light."""
        light = torch.where(looks == 0, 0.6, -0.6)[:, None, None, None]
        noise = 0.1 * torch.randn(2, 8, 3, 32, 32, generator=generator)
        return light + noise[0], -light + noise[1]

    for _ in range(60):
        adversary.learn(*batch(), looks)
    real, made = batch()
    told_apart, unlike = adversary.against(real, made, looks)
    of_real, alike = adversary.against(real, real, looks)
    assert (told_apart > of_real + 1).all()
    assert (unlike > 0.1).all()
    assert (alike < 1e-5).all()


def test_going_against_the_adversary_does_not_teach_it() -> None:
    adversary = Adversary(2)
    made = torch.rand(2, 3, 32, 32, requires_grad=True)
    told_apart, unlike = adversary.against(torch.rand(2, 3, 32, 32), made, torch.tensor([0, 1]))
    (told_apart + unlike).sum().backward()
    assert made.grad is not None
    assert made.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in adversary.discriminator.parameters())
