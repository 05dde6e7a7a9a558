"""`python -m tests.benchmarks.training [--quick]`: how fast a training step is, on the starter.

Three kinds of steps of one LoRA training take turns in blocks, all in the same precision and memory layout:

- ours: `engine.training.loop.train`, with all that happens in its steps (held-out loss and a checkpoint every block);
- re-encoding: as in diffusers' `train_text_to_image_lora.py`, photos and captions go through their encoders every step;
- bare: forward, backward and optimizer of the same UNet on a batch that is ready, and nothing else.

The last line is a JSON object: `speedup_vs_reencode` is re-encoding over ours, `over_bare_step` ours over bare, each
the median over the rounds. Without the starter's weights, the tiny base of the tests stands in.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from engine.families import Base, Components, base, family
from engine.settings import TrainSettings
from engine.training.data import prepare
from engine.training.loop import HELD_OUT_EVERY, mixed_precision, train, trainable_lora
from engine.training.objective import denoising_losses, training_schedule
from engine.workspace import Photo, Workspace
from tests.tiny import make_tiny_base

PHOTOS = 10
PHOTO_SIDE_PX = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    quick = parser.parse_args().quick
    rounds, block = (1, 3) if quick else (5, HELD_OUT_EVERY)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        starter = base("starter")
        if not any(Path(starter.source).glob(starter.weights("unet"))):
            os.environ["TRIPOD_STARTER"] = str(make_tiny_base(Path(folder) / "tiny"))
            starter = base("starter")
        workspace = Workspace(Path(folder))
        photos = make_photos(workspace)
        settings = TrainSettings(
            dataset="benchmark",
            name="benchmark",
            resolution=starter.default_size_px,
            steps=1 + rounds * block,
            checkpoint_every=block,
        )
        kinds = {
            "ours": ours(stack, starter, workspace, photos, settings),
            "reencode": reencoding(stack, starter, workspace, photos, settings),
            "bare": bare(stack, starter, settings),
        }
        for steps in kinds.values():
            next(steps)  # the first step allocates and warms up
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            for kind, steps in kinds.items():
                started_s = time.perf_counter()
                for _ in islice(steps, block):
                    pass
                seconds[kind].append((time.perf_counter() - started_s) / block)
            print(f"round {number}:", {kind: f"{1000 * times[-1]:.0f} ms" for kind, times in seconds.items()})

    def ratio(one: str, other: str) -> float:
        return round(median(a / b for a, b in zip(seconds[one], seconds[other], strict=True)), 3)

    result = {
        "speedup_vs_reencode": ratio("reencode", "ours"),
        "over_bare_step": ratio("ours", "bare"),
        "step_ms": {kind: round(1000 * median(times), 1) for kind, times in seconds.items()},
        "base": Path(starter.source).name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


def make_photos(workspace: Workspace) -> list[Photo]:
    rng = np.random.default_rng(0)
    photos = []
    for number in range(PHOTOS):
        colours = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        content_hash = workspace.keep_image(colours.resize((PHOTO_SIDE_PX, PHOTO_SIDE_PX), Image.Resampling.BICUBIC))
        photos.append(
            Photo(
                id=f"p{number}",
                file=f"{number}.png",
                image=content_hash,
                width_px=PHOTO_SIDE_PX,
                height_px=PHOTO_SIDE_PX,
                crop=None,
                caption=f"sks bear, a photo of a bear on a wooden table, number {number}",
            )
        )
    return photos


def load(starter: Base) -> Components:
    parts = family(starter.family).load(starter, torch.float32, "cpu")
    parts.denoiser.to(memory_format=torch.channels_last)
    parts.vae.to(memory_format=torch.channels_last)
    return parts


def ours(
    stack: ExitStack, starter: Base, workspace: Workspace, photos: list[Photo], settings: TrainSettings
) -> Iterator[object]:
    parts = load(starter)
    data = prepare(parts, photos, [], settings, workspace=workspace)
    lora = stack.enter_context(trainable_lora(parts, settings, starter.spec.lora_targets))
    return stack.enter_context(closing(train(lora, parts, data, settings, workspace.root)))


def reencoding(
    stack: ExitStack, starter: Base, workspace: Workspace, photos: list[Photo], settings: TrainSettings
) -> Iterator[object]:
    parts = load(starter)
    schedule = training_schedule(parts.scheduler)
    lora = stack.enter_context(trainable_lora(parts, settings, starter.spec.lora_targets))
    parameters = lora.groups[0]["params"]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    processor = VaeImageProcessor()
    endless = cycle(photos)
    while True:
        batch = list(islice(endless, settings.batch_size))
        side_px = settings.resolution
        images = [workspace.image(photo.image).resize((side_px, side_px), Image.Resampling.BILINEAR) for photo in batch]
        tokens = parts.tokenizer(
            [photo.caption for photo in batch], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with mixed_precision(parts.denoiser.device):
            with torch.no_grad():
                latents = parts.vae.encode(processor.preprocess(images)).latent_dist.sample()
                text = parts.text_encoder(tokens)[0]
            latents = latents.float() * parts.vae.config.scaling_factor
            losses = denoising_losses(
                lambda noisy, timesteps, text=text: parts.denoiser(noisy, timesteps, text).sample,
                schedule,
                latents=latents,
                noise=torch.randn_like(latents),
                timesteps=torch.randint(0, schedule.config.num_train_timesteps, (len(batch),)),
                min_snr_gamma=settings.min_snr_gamma,
            )
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


def bare(stack: ExitStack, starter: Base, settings: TrainSettings) -> Iterator[object]:
    parts = load(starter)
    lora = stack.enter_context(trainable_lora(parts, settings, starter.spec.lora_targets))
    optimizer = torch.optim.AdamW(lora.groups[0]["params"], lr=settings.learning_rate, fused=True)
    config, size, side = parts.denoiser.config, settings.batch_size, settings.resolution // starter.spec.vae_scale
    latents, target = torch.randn(2, size, config.in_channels, side, side)
    timesteps = torch.randint(0, parts.scheduler.config.num_train_timesteps, (size,))
    text = torch.randn(size, parts.tokenizer.model_max_length, config.cross_attention_dim)
    while True:
        with mixed_precision(parts.denoiser.device):
            prediction = parts.denoiser(latents, timesteps, text).sample
        torch.nn.functional.mse_loss(prediction.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


if __name__ == "__main__":
    main()
