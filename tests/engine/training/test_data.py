"""What a training sees, against diffusers' own encoding and closed forms."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine.families import Base, Components
from engine.settings import TrainSettings
from engine.training.data import batch_of_step, caption_to_train, encode_texts, prepare, split_photos
from engine.workspace import Workspace

TIMESTEPS = 1000


def test_latents_and_texts_are_those_of_diffusers(
    parts: Components, tiny_base: Base, workspace: Workspace, settings: TrainSettings
) -> None:
    photos = workspace.dataset(settings.dataset).photos
    settings = settings.replace(held_out_photos=0)

    data = prepare(parts, photos, ["a red mug"], settings, workspace=workspace)

    pipeline: Any = StableDiffusionPipeline.from_pretrained(tiny_base.source, safety_checker=None)
    crop = workspace.image(photos[0].image).crop((3, 5, 67, 69))
    pixels = torch.from_numpy(np.asarray(crop) / 127.5 - 1).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        text, empty = pipeline.encode_prompt(
            photos[0].caption, "cpu", 1, do_classifier_free_guidance=True, negative_prompt=""
        )
        prompt, _ = pipeline.encode_prompt("a red mug", "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(data.latents[:1], latents)
    torch.testing.assert_close(data.texts(torch.tensor([0, 1])), {"prompt_embeds": torch.cat([empty, text])})
    torch.testing.assert_close(data.texts(data.prompts), {"prompt_embeds": prompt})
    assert data.latents.shape == (10, 8, 8, 8)
    assert data.held_out is None


def test_held_out_photos_are_apart_and_at_fixed_noise(
    parts: Components, workspace: Workspace, settings: TrainSettings
) -> None:
    photos = workspace.dataset(settings.dataset).photos

    data, again = (prepare(parts, photos, [], settings, workspace=workspace) for _ in range(2))

    assert data.held_out is not None
    assert again.held_out is not None
    assert len(data.latents) == 8
    assert data.held_out.timesteps.tolist() == [125, 375, 625, 875] * 2
    assert data.held_out.photos.tolist() == [8] * 4 + [9] * 4
    assert data.held_out.captions.tolist() == [9] * 4 + [10] * 4
    torch.testing.assert_close(data.held_out.noise, again.held_out.noise, rtol=0, atol=0)
    seen = {latents.numpy().tobytes() for latents in data.latents}
    assert not any(latents.numpy().tobytes() in seen for latents in data.held_out.latents)


def test_split_holds_out_at_most_a_fifth(workspace: Workspace, settings: TrainSettings) -> None:
    photos = workspace.dataset(settings.dataset).photos

    for asked, given, held_out in ((2, 10, 2), (10, 10, 2), (2, 5, 1), (2, 4, 0), (0, 10, 0)):
        train, held = split_photos(photos[:given], settings.replace(held_out_photos=asked))
        assert len(held) == held_out
        assert sorted(photo.id for photo in (*train, *held)) == sorted(photo.id for photo in photos[:given])


def test_a_batch_follows_from_the_number_of_its_step(settings: TrainSettings) -> None:
    latents = torch.randn(7, 2, 4, 4)

    one, same, next_one, other_seed = (
        batch_of_step(step, latents, settings.replace(seed=seed), TIMESTEPS)
        for step, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    )

    for name in ("latents", "noise", "timesteps", "photos", "captions"):
        torch.testing.assert_close(getattr(one, name), getattr(same, name), rtol=0, atol=0)
    assert not torch.equal(one.noise, next_one.noise)
    assert not torch.equal(one.noise, other_seed.noise)


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_every_epoch_shows_every_photo_once(settings: TrainSettings, batch_size: int) -> None:
    latents = torch.arange(6.0).reshape(6, 1, 1, 1)
    settings = settings.replace(batch_size=batch_size, caption_dropout=0.0)

    batches = [batch_of_step(step, latents, settings, TIMESTEPS) for step in range(12)]

    shown = torch.cat([batch.latents.flatten() for batch in batches]).int().tolist()
    for epoch in range(len(shown) // 6):
        assert sorted(shown[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert torch.cat([batch.photos for batch in batches]).tolist() == shown
    assert torch.cat([batch.captions for batch in batches]).tolist() == [photo + 1 for photo in shown]


def test_captions_drop_out_as_often_as_asked(settings: TrainSettings) -> None:
    settings = settings.replace(caption_dropout=0.25, batch_size=8)

    batches = [batch_of_step(step, torch.zeros(5, 1, 1, 1), settings, TIMESTEPS) for step in range(400)]

    dropped = torch.cat([batch.captions == 0 for batch in batches]).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 3200) ** 0.5)


def test_timesteps_are_spread_over_every_batch_and_uniform_over_many(settings: TrainSettings) -> None:
    batches = [batch_of_step(step, torch.zeros(5, 1, 1, 1), settings, TIMESTEPS) for step in range(500)]

    assert all((batch.timesteps // 250).tolist() == [0, 1, 2, 3] for batch in batches)
    tenths = Counter((torch.cat([batch.timesteps for batch in batches]) // 100).tolist())
    assert all(count == pytest.approx(200, abs=4 * 200**0.5) for count in tenths.values())


def test_noise_is_standard_normal(settings: TrainSettings) -> None:
    noise = batch_of_step(0, torch.zeros(5, 16, 32, 32), settings, TIMESTEPS).noise

    assert noise.mean().item() == pytest.approx(0, abs=4 / noise.numel() ** 0.5)
    assert noise.var().item() == pytest.approx(1, abs=4 * (2 / noise.numel()) ** 0.5)


def test_texts_of_a_trained_encoder_follow_its_weights(parts: Components, settings: TrainSettings) -> None:
    numbers = torch.tensor([1, 0])
    fixed, live = (
        encode_texts(parts, [None, "a mug"], settings.replace(text_encoder_learning_rate=rate)) for rate in (0.0, 1e-4)
    )
    torch.testing.assert_close(live(numbers), fixed(numbers))

    parts.text_encoder.get_input_embeddings().weight.mul_(2)

    assert not torch.allclose(live(numbers)["prompt_embeds"], fixed(numbers)["prompt_embeds"])


@pytest.mark.parametrize(
    ("caption", "trained_on"),
    [
        ("a photo of a bear", "sks teddy bear, a photo of a bear"),
        ("a photo of sks teddy bear", "a photo of sks teddy bear"),
        (" ", "a photo of sks teddy bear"),
    ],
)
def test_every_caption_carries_the_trigger(settings: TrainSettings, caption: str, trained_on: str) -> None:
    assert caption_to_train(caption, settings) == trained_on
