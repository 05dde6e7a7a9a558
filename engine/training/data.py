"""What a training sees: photos as latents, captions as text embeddings, and the batch of every step.

Latents and embeddings are computed once and kept, the empty caption among them, so that caption dropout works without
the text encoder. A batch follows from the seed and the number of its step alone, so a resumed training needs no state
of random generators to go on exactly. It knows nothing of losses, LoRAs or optimizers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.captioning import with_trigger
from engine.families import Components
from engine.photo import cropped
from engine.settings import TrainSettings
from engine.workspace import Photo, Workspace

if TYPE_CHECKING:
    from torch import Generator, Tensor

HELD_OUT_TIMESTEPS = 4

_EMPTY_CAPTION = 0
_LEAST_PHOTOS_PER_HELD_OUT = 5
_BATCH, _EPOCH, _SPLIT, _HELD_OUT = range(4)

Texts = Callable[["Tensor"], "Tensor"]
"""Numbers of texts (b,) to their embeddings (b, tokens, width)."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples with their noise: latents and noise (b, c, h, w), timesteps (b,), numbers of the captions (b,)."""

    latents: "Tensor"
    noise: "Tensor"
    timesteps: "Tensor"
    captions: "Tensor"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Latents (n, c, h, w) to train on, whose captions are the texts 1 to n; text 0 is empty.

    `held_out` is the batch to measure on, None without held-out photos. `prompts` numbers the sample prompts.
    """

    latents: "Tensor"
    held_out: Batch | None
    texts: Texts
    prompts: "Tensor"


def prepare(
    parts: Components,
    photos: Sequence[Photo],
    prompts: Sequence[str],
    settings: TrainSettings,
    *,
    workspace: Workspace,
    before_each: Callable[[], None] = lambda: None,
) -> TrainingData:
    """Encode everything once. `before_each` photo may raise to stop."""
    import torch

    train, held_out = split_photos(photos, settings)
    captions = [caption_to_train(photo.caption, settings) for photo in (*train, *held_out)]
    texts = encode_texts(
        parts.tokenizer,
        parts.text_encoder,
        ["", *captions, *prompts],
        trained=settings.text_encoder_learning_rate > 0,
    )
    latents = encode_photos(parts.vae, (*train, *held_out), workspace, settings.resolution, before_each)
    numbers = torch.arange(1, 1 + len(captions) + len(prompts))
    train_latents, held_out_latents = latents.split((len(train), len(held_out)))
    _, held_out_captions, prompt_numbers = numbers.split((len(train), len(held_out), len(prompts)))
    timestep_count = parts.scheduler.config.num_train_timesteps
    return TrainingData(
        latents=train_latents,
        held_out=_held_out_batch(held_out_latents, held_out_captions, timestep_count) if held_out else None,
        texts=texts,
        prompts=prompt_numbers,
    )


def split_photos(photos: Sequence[Photo], settings: TrainSettings) -> tuple[list[Photo], list[Photo]]:
    """Photos to train on, and photos held out to measure on: as many as asked, but at most a fifth."""
    import torch

    held_out = min(settings.held_out_photos, len(photos) // _LEAST_PHOTOS_PER_HELD_OUT)
    order = torch.randperm(len(photos), generator=_generator(settings.seed, _SPLIT)).tolist()
    return [photos[i] for i in sorted(order[held_out:])], [photos[i] for i in sorted(order[:held_out])]


def caption_to_train(caption: str, settings: TrainSettings) -> str:
    """The caption with the trigger word; a photo without a caption gets the plainest one."""
    plain = f"a photo of {settings.trigger} {settings.class_name}".strip()
    return with_trigger(caption.strip() or plain, settings.trigger, settings.class_name)


def encode_photos(
    vae: Any, photos: Sequence[Photo], workspace: Workspace, side_px: int, before_each: Callable[[], None]
) -> "Tensor":
    """Crops as latents (n, c, h, w), scaled as the UNet sees them: the mean of the posterior, which has no noise."""
    import torch
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor()
    latents = []
    for photo in photos:
        before_each()
        pixels = processor.preprocess(cropped(workspace.image(photo.image), photo.crop, side_px))
        with torch.no_grad():
            latents.append(vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode())
    return torch.cat(latents) * vae.config.scaling_factor


def encode_texts(tokenizer: Any, text_encoder: Any, texts: Sequence[str], *, trained: bool) -> Texts:
    """Embeddings of `texts` by their number: computed here once, or at every call while the encoder is `trained`."""
    import torch

    tokens = tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids.to(text_encoder.device)
    if trained:
        return lambda numbers: text_encoder(tokens[numbers])[0]
    with torch.no_grad():
        embeddings = torch.cat([text_encoder(some)[0] for some in tokens.split(16)])
    return lambda numbers: embeddings[numbers]


def batch_of_step(step: int, latents: "Tensor", settings: TrainSettings, timestep_count: int) -> Batch:
    """The batch of step number `step`, from 0: photos in a new order every epoch, captions dropped now and then.

    Its timesteps are one from each of `batch_size` equal slices of the schedule: over many steps as evenly spread as
    independent draws, but the loss varies less from one step to the next.
    """
    import torch

    size = settings.batch_size
    generator = _generator(settings.seed, _BATCH, step)
    places = range(step * size, (step + 1) * size)
    photos = torch.tensor([_photo_at(place, len(latents), settings.seed) for place in places])
    dropped = torch.rand(size, generator=generator) < settings.caption_dropout
    timesteps = (torch.arange(size) + torch.rand(size, generator=generator)) * (timestep_count / size)
    return Batch(
        latents=latents[photos],
        noise=torch.randn((size, *latents.shape[1:]), generator=generator).to(latents.device),
        timesteps=timesteps.long().to(latents.device),
        captions=(photos + 1).masked_fill(dropped, _EMPTY_CAPTION),
    )


def _photo_at(place: int, count: int, seed: int) -> int:
    """The photo at a place of the endless row of epochs, each a permutation of all photos."""
    import torch

    epoch, place = divmod(place, count)
    return int(torch.randperm(count, generator=_generator(seed, _EPOCH, epoch))[place])


def _held_out_batch(latents: "Tensor", captions: "Tensor", timestep_count: int) -> Batch:
    """Every photo at the same few timesteps, spread over the schedule, with the same noise in every training."""
    import torch

    repeated = latents.repeat_interleave(HELD_OUT_TIMESTEPS, dim=0)
    timesteps = (torch.arange(HELD_OUT_TIMESTEPS) + 0.5) * (timestep_count / HELD_OUT_TIMESTEPS)
    return Batch(
        latents=repeated,
        noise=torch.randn(repeated.shape, generator=_generator(0, _HELD_OUT)).to(latents.device),
        timesteps=timesteps.long().repeat(len(latents)).to(latents.device),
        captions=captions.repeat_interleave(HELD_OUT_TIMESTEPS),
    )


def _generator(seed: int, purpose: int, number: int = 0) -> "Generator":
    """A generator of its own for every purpose and number. Mixed down first: torch keeps 32 bits of a CPU seed."""
    import numpy as np
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose, number]).generate_state(1)[0]))
