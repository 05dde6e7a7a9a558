"""What a training sees: photos as latents, captions as text embeddings, and the batch of every step.

Latents and embeddings are computed once and kept, that of no caption among them, so that caption dropout works without
the text encoder. A batch follows from the seed and the number of its step alone, so a resumed training needs no state
of random generators to go on exactly. It knows nothing of losses, LoRAs or optimizers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from engine.captioning import with_trigger
from engine.families import Components, Embeds, base, family
from engine.photo import cropped
from engine.settings import CropBox, TrainSettings
from engine.workspace import Photo, Workspace

if TYPE_CHECKING:
    from torch import Generator, Tensor

HELD_OUT_TIMESTEPS = 4
TEXTS_AT_ONCE = 16

_NO_CAPTION = 0
_LEAST_PHOTOS_PER_HELD_OUT = 5
_BATCH, _EPOCH, _SPLIT, _HELD_OUT = range(4)

Texts = Callable[["Tensor"], Embeds]
"""Numbers of texts (b,) to their embeddings."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples with their noise: latents and noise (b, c, h, w), timesteps (b,), and numbers (b,) of the photos and of
    the captions."""

    latents: "Tensor"
    noise: "Tensor"
    timesteps: "Tensor"
    photos: "Tensor"
    captions: "Tensor"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Latents (n, c, h, w) to train on, whose captions are the texts 1 to n; text 0 is none.

    `sizes` are those of the photos and then of the held-out ones, as `Family.predict` takes them. `held_out`
    is the batch to measure on, None without held-out photos. `prompts` numbers the sample prompts.
    """

    latents: "Tensor"
    sizes: "Tensor"
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
    both = (*train, *held_out)
    captions = [caption_to_train(photo.caption, settings) for photo in both]
    texts = encode_texts(parts, [None, *captions, *prompts], settings)
    latents = encode_photos(parts, both, workspace, settings.resolution, before_each)
    train_latents, held_out_latents = latents.split((len(train), len(held_out)))
    held_out_numbers = torch.arange(len(train), len(both))
    timestep_count = parts.scheduler.config.num_train_timesteps
    return TrainingData(
        latents=train_latents,
        sizes=torch.tensor([size_conditions(photo, settings.resolution) for photo in both], device=latents.device),
        held_out=_held_out_batch(held_out_latents, held_out_numbers, timestep_count) if held_out else None,
        texts=texts,
        prompts=torch.arange(1 + len(captions), 1 + len(captions) + len(prompts)),
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
    parts: Components, photos: Sequence[Photo], workspace: Workspace, side_px: int, before_each: Callable[[], None]
) -> "Tensor":
    """Crops as latents (n, c, h, w), as the denoiser sees them: the mean of the posterior, which has no noise."""
    import torch
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor()
    latents = []
    for photo in photos:
        before_each()
        pixels = processor.preprocess(cropped(workspace.image(photo.image), photo.crop, side_px))
        with torch.no_grad():
            latents.append(parts.latents_of(pixels).float())
    return torch.cat(latents)


def size_conditions(photo: Photo, side_px: int) -> tuple[int, ...]:
    """The photo's height and width before it is scaled, the top and left of its crop after that, and the crop's sides.

    As for diffusers' `train_text_to_image_lora_sdxl.py` when the crop is as high or wide as the photo. A smaller one is
    scaled up more: it counts as one of a smaller photo of the same shape.
    """
    shorter = min(photo.width_px, photo.height_px)
    crop = photo.crop or CropBox(
        left_px=(photo.width_px - shorter) // 2, top_px=(photo.height_px - shorter) // 2, side_px=shorter
    )
    crop_px = min(crop.side_px, shorter)
    photo_scale, scale = crop_px / shorter, side_px / crop_px
    return (
        round(photo.height_px * photo_scale),
        round(photo.width_px * photo_scale),
        round(min(crop.top_px, photo.height_px - crop_px) * scale),
        round(min(crop.left_px, photo.width_px - crop_px) * scale),
        side_px,
        side_px,
    )


def encode_texts(parts: Components, texts: Sequence[str | None], settings: TrainSettings) -> Texts:
    """Embeddings of `texts` by their number: computed here once, or at every call while the encoder is trained."""
    import torch

    own = family(base(settings.base).family)
    pipeline = own.pipeline(parts, "default")
    if settings.text_encoder_learning_rate > 0:
        return lambda numbers: own.encode(pipeline, [texts[number] for number in numbers.tolist()])
    with torch.no_grad():
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        chunks = [own.encode(pipeline, texts[start : start + TEXTS_AT_ONCE]) for start in starts]
        embeds = {name: _stacked([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return lambda numbers: {name: tensor[numbers] for name, tensor in embeds.items()}


def release_encoders(parts: Components, settings: TrainSettings) -> None:
    """Let go of what is no longer needed once everything is encoded. Samples need the autoencoder's decoder only."""
    import torch

    parts.vae.encoder = torch.nn.Identity()  # not None: Qwen's decodes look through it
    parts.vae.enable_slicing()  # a sample is decoded by itself, in a part of the memory that all would take
    if settings.text_encoder_learning_rate == 0:
        for name in base(settings.base).spec.text_encoders:
            setattr(parts, name, None)


def _stacked(chunks: "Sequence[Tensor]") -> "Tensor":
    """Chunks of texts, (n, width) or (n, tokens, ...), as one, padded with zeros to the tokens of the longest."""
    import torch

    if chunks[0].ndim < 3 and chunks[0].is_floating_point():
        return torch.cat(list(chunks))
    whole = chunks[0].new_zeros(sum(map(len, chunks)), max(c.shape[1] for c in chunks), *chunks[0].shape[2:])
    for first, chunk in zip(accumulate(map(len, chunks), initial=0), chunks, strict=False):
        whole[first : first + len(chunk), : chunk.shape[1]] = chunk
    return whole


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
        photos=photos,
        captions=(photos + 1).masked_fill(dropped, _NO_CAPTION),
    )


def _photo_at(place: int, count: int, seed: int) -> int:
    """The photo at a place of the endless row of epochs, each a permutation of all photos."""
    import torch

    epoch, place = divmod(place, count)
    return int(torch.randperm(count, generator=_generator(seed, _EPOCH, epoch))[place])


def _held_out_batch(latents: "Tensor", photos: "Tensor", timestep_count: int) -> Batch:
    """Every photo at the same few timesteps, spread over the schedule, with the same noise in every training."""
    import torch

    repeated = latents.repeat_interleave(HELD_OUT_TIMESTEPS, dim=0)
    timesteps = (torch.arange(HELD_OUT_TIMESTEPS) + 0.5) * (timestep_count / HELD_OUT_TIMESTEPS)
    photos = photos.repeat_interleave(HELD_OUT_TIMESTEPS)
    return Batch(
        latents=repeated,
        noise=torch.randn(repeated.shape, generator=_generator(0, _HELD_OUT)).to(latents.device),
        timesteps=timesteps.long().repeat(len(latents)).to(latents.device),
        photos=photos,
        captions=photos + 1,
    )


def _generator(seed: int, purpose: int, number: int = 0) -> "Generator":
    """A generator of its own for every purpose and number. Mixed down first: torch keeps 32 bits of a CPU seed."""
    import numpy as np
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose, number]).generate_state(1)[0]))
