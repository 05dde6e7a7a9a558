"""What a job needs of the device's memory, from the configurations of its models and its settings alone.

A job goes through phases, such as reading the prompt, denoising and decoding. Each is done once on the meta device, by
the family's own pipeline or the training's own loss, and metered; to that come the weights that are there meanwhile.
Steps, counts and accumulated gradients change nothing. No weights are read, and nothing here touches a device.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import families
from engine.adapters import Control, attach
from engine.families import Base, guided
from engine.families.base import dtype_for
from engine.memory.meter import Meter, as_on_a_device, metered
from engine.memory.phases import (
    Estimate,
    Phase,
    Weights,
    greatest,
    stored,
    tensors_of,
    weights_beside,
    weights_of,
    weights_of_lora,
    weights_of_style_adapter,
)
from engine.memory.plans import Plan
from engine.memory.skeleton import controlnet_skeleton, skeleton
from engine.settings import GenerateSettings, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COPIES_OF_TRAINED = 3
"""A weight that learns and AdamW's two averages of its gradient."""


def generation(
    settings: GenerateSettings, base: Base, plan: Plan, device: str, lora_files: Sequence[Path] = ()
) -> Estimate:
    """What a picture needs. Raises: MissingModel when the configurations are neither here nor within reach."""
    dtype = dtype_for(device, base.spec)
    loras = tuple(weights_of_lora(file, dtype) for file in lora_files)
    loading, *phases = _generation(_shape_of(settings), base.name, base.source, device, dtype, plan.tiled)
    phases = [_loading_in_half(loading, base, dtype) if plan.quantiser and device == "cpu" else loading, *phases]
    return greatest([replace(phase, there=(*phase.there, *loras)) for phase in phases], plan)


def training(settings: TrainSettings, base: Base, plan: Plan, device: str) -> Estimate:
    """What a training needs. Raises: MissingModel when the configurations are neither here nor within reach."""
    return greatest(phases_of_training(settings, base, plan, device), plan)


def phases_of_training(settings: TrainSettings, base: Base, plan: Plan, device: str) -> tuple[Phase, ...]:
    return _training(_scale_of(settings), base.name, base.source, device, plan.recomputes, plan.tiled)


def _shape_of(settings: GenerateSettings) -> GenerateSettings:
    """What of the settings decides over memory. To encode a start takes less than to decode the picture."""
    unimportant = {"seed": 0, "count": 1, "loras": (), "scheduler": "default", "start": None}
    return settings.replace(prompt="-", negative_prompt="", steps=1, **unimportant)


def _scale_of(settings: TrainSettings) -> TrainSettings:
    return settings.replace(dataset="-", name="-", steps=1, seed=0, trigger="-", class_name="", learning_rate=1.0)


@lru_cache(maxsize=64)
def _generation(
    settings: GenerateSettings, base_name: str, source: str, device: str, dtype: "torch.dtype", tiled: bool
) -> tuple[Phase, ...]:
    import torch
    from PIL import Image

    base = families.base(base_name)
    own: Any = families.family(base.family)
    parts = skeleton(base, dtype)
    if tiled:
        parts.vae.enable_tiling()
    picture = Image.new("RGB", (settings.width, settings.height))
    loaded = {use.kind: controlnet_skeleton(base, use.kind, dtype) for use in settings.controls}
    controls = [
        Control(controlnet=loaded[use.kind], image=picture, kind=use.kind, guided=base.guides_control(use))
        for use in settings.controls
    ]
    there = [*weights_of(base, parts), *(weights_beside(f"ControlNet {kind}", net) for kind, net in loaded.items())]
    if settings.styles:
        there.append(weights_of_style_adapter(base, dtype, len(settings.styles)))
    phase = partial(Phase, there=tuple(there))
    pipeline = own.pipeline(parts, "default")
    _look_at_no_values(pipeline.scheduler)

    with (
        torch.no_grad(),
        as_on_a_device(plain_attention=settings.attention == "math"),
        attach(parts, controls=controls) as attached,
        metered(tensors_of(*vars(parts).values(), *loaded.values())) as meter,
    ):
        embeds = own.encode(pipeline, [settings.prompt])
        if own.guides(settings, base):
            embeds = guided(embeds, own.encode(pipeline, [None]))
        reading_bytes = meter.restart()
        attached.begin(torch.Generator())
        denoising_bytes, decoding_bytes = _drawn(
            pipeline, meter, **own.arguments(settings, embeds, ()), width=settings.width, height=settings.height
        )
    return (
        _loading(base, device, dtype, tuple(there)),
        phase(title="reading the prompt", at_work=frozenset(base.spec.text_encoders), besides_bytes=reading_bytes),
        phase(title="denoising", at_work=frozenset({base.spec.denoiser}), besides_bytes=denoising_bytes),
        phase(title="decoding", at_work=frozenset({"vae"}), besides_bytes=decoding_bytes),
    )


def _loading(base: Base, device: str, dtype: "torch.dtype", there: tuple[Weights, ...]) -> Phase:
    """On a CPU, weights that are stored in another precision are there twice while they are converted."""
    stored_bytes = 0
    if device == "cpu" and Path(base.source).is_absolute():
        files = [Path(base.source)] if base.is_file else Path(base.source).glob(base.weights(base.spec.denoiser))
        for count, size_bytes in map(stored, files):
            stored_bytes += 0 if size_bytes == count * dtype.itemsize else size_bytes
    elif device == "cpu" and base.variant == "fp16":
        (denoiser,) = (weights for weights in there if weights.part == base.spec.denoiser)
        stored_bytes = denoiser.size_bytes * 2 // dtype.itemsize
    return Phase(title="loading", there=there, at_work=frozenset(), besides_bytes=stored_bytes)


def _loading_in_half(loading: Phase, base: Base, dtype: "torch.dtype") -> Phase:
    """What is to be kept in fewer bits comes in half precision, all of it, before it is."""
    import torch

    half: torch.dtype = getattr(torch, base.spec.precision)
    whole = [
        replace(weights, size_bytes=weights.size_bytes * half.itemsize // dtype.itemsize, matrix_count=0)
        for weights in loading.there
    ]
    return _loading(base, "cpu", half, tuple(whole))


def _drawn(pipeline: Any, meter: Meter, **arguments: Any) -> tuple[int, int]:
    """What denoising and decoding need besides the weights."""
    import torch

    vae, peaks = pipeline.vae, []
    decode = vae.decode

    def decoding(*args: Any, **kwargs: Any) -> Any:
        peaks.append(meter.restart())
        return decode(*args, **kwargs)

    vae.decode = decoding
    try:
        pipeline(**arguments, num_inference_steps=1, generator=torch.Generator(), output_type="pt")
    finally:
        del vae.decode
    return peaks[0], meter.restart()


def _look_at_no_values(scheduler: Any) -> None:
    """Let a scheduler take its steps on the meta device, where there are no numbers to compute with."""
    set_timesteps = scheduler.set_timesteps

    @wraps(set_timesteps)  # pipelines look at what it takes
    def on_meta(*args: Any, device: Any = None, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.timesteps = scheduler.timesteps.to("meta")

    scheduler.set_timesteps = on_meta
    scheduler.scale_model_input = lambda latents, timestep: latents
    scheduler.step = lambda prediction, timestep, latents, **_: (latents,)


@lru_cache(maxsize=64)
def _training(
    settings: TrainSettings, base_name: str, source: str, device: str, recomputes: bool, tiled: bool
) -> tuple[Phase, ...]:
    import torch

    from engine.training.data import HELD_OUT_TIMESTEPS, TEXTS_AT_ONCE, release_encoders
    from engine.training.fused import fused_lora
    from engine.training.loop import SMALL_LATENTS, mixed_precision, swapped, trainable_lora
    from engine.training.objective import losses, training_schedule
    from engine.training.samples import sample_prompts, sample_settings

    base = families.base(base_name)
    own: Any = families.family(base.family)
    parts = skeleton(base, frozen_dtype(device))
    parts.denoiser.to(memory_format=torch.channels_last)
    if tiled:
        parts.vae.enable_tiling()
    half = torch.bfloat16 if device != "cpu" or mixed_precision(torch.device("cpu"))._enabled else None
    side_px, text_is_trained = settings.resolution, settings.text_encoder_learning_rate > 0

    with torch.no_grad(), as_on_a_device(), metered(tensors_of(*vars(parts).values())) as meter:
        parts.vae.float()
        latents = parts.latents_of(torch.empty(1, 3, side_px, side_px, device="meta")).float()
        encoding_bytes = meter.restart()
        pipeline = own.pipeline(parts, "default")
        embeds = own.encode(pipeline, ["-"] * TEXTS_AT_ONCE)
        reading_bytes = meter.restart()
        parts.vae.to(frozen_dtype(device))
    everything = tuple(weights_of(base, parts))
    phases = [
        _loading(base, device, frozen_dtype(device), everything),
        Phase(title="reading the photos", there=everything, at_work=frozenset({"vae"}), besides_bytes=encoding_bytes),
        Phase(
            title="reading the captions",
            there=everything,
            at_work=frozenset(base.spec.text_encoders),
            besides_bytes=reading_bytes,
        ),
    ]
    release_encoders(parts, settings)

    with torch.random.fork_rng(devices=[]), trainable_lora(parts, settings, base.spec.lora_targets) as lora:
        frozen = tuple(weights_of(base, parts))
        copies = _half_copies(parts.denoiser) if half and device == "cpu" else []
        if recomputes:
            parts.denoiser.enable_gradient_checkpointing()
        plain = device == "cpu" and latents[0, 0].numel() <= SMALL_LATENTS
        trained = [parameter for group in lora.groups for parameter in group["params"]]
        lora_bytes = COPIES_OF_TRAINED * sum(parameter.nbytes for parameter in trained)

        def loss(count: int) -> "Tensor":
            batch = latents.expand(count, -1, -1, -1).contiguous()
            texts = own.encode(pipeline, ["-"] * count) if text_is_trained else _repeated(embeds, count)
            predict = partial(own.predict, parts, embeds=texts, sizes=torch.empty(count, 6, device="meta"))
            schedule = training_schedule(parts.scheduler)
            timesteps = torch.zeros(count, dtype=torch.long, device="meta")
            return losses(
                predict,
                schedule,
                own.spec.objective,
                latents=batch,
                noise=torch.empty_like(batch),
                timesteps=timesteps,
                min_snr_gamma=settings.min_snr_gamma,
            ).mean()

        with (
            fused_lora(lora.models.values()),
            swapped(copies),
            as_on_a_device(half, norms_in_single=device != "cpu", plain_attention=plain),
            metered(tensors_of(*vars(parts).values())) as meter,
        ):
            torch.autograd.backward(loss(settings.batch_size))  # `Tensor.backward` would leave the mode
            learning_bytes = meter.restart()
            for parameter in trained:
                parameter.grad = None
            meter.restart()
            with torch.no_grad():
                loss(settings.held_out_photos * HELD_OUT_TIMESTEPS or 1)
            measuring_bytes = meter.restart()
        texts = _repeated(embeds, len(sample_prompts(settings)))
        sampling = own.pipeline(parts, "default")
        _look_at_no_values(sampling.scheduler)
        asked = sample_settings(base)
        in_half = {"half": half, "norms_in_single": True} if device != "cpu" else {}
        with torch.no_grad(), as_on_a_device(**in_half), metered(tensors_of(*vars(parts).values())) as meter:
            arguments = own.arguments(asked, guided(texts, texts) if own.guides(asked, base) else texts, ())
            sampling_bytes, decoding_bytes = _drawn(sampling, meter, **arguments, width=side_px, height=side_px)

    besides_bytes = lora_bytes + sum(copy.nbytes for _, copy in copies)
    at_work = frozenset({base.spec.denoiser, *(base.spec.text_encoders if text_is_trained else ())})
    return (
        *phases,
        *(
            Phase(title=title, there=frozen, at_work=at_work, besides_bytes=besides_bytes + needed_bytes)
            for title, needed_bytes in (
                ("learning", learning_bytes),
                ("measuring on held-out photos", measuring_bytes),
                ("drawing samples", sampling_bytes),
                ("decoding samples", decoding_bytes),
            )
        ),
    )


def _half_copies(denoiser: Any) -> "list[tuple[Tensor, Tensor]]":
    """As `engine.training.loop.half_copies` of a denoiser on a CPU that computes in half precision."""
    import torch

    layers = [layer for layer in denoiser.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    frozen = [weight for layer in layers for weight in layer.parameters(recurse=False) if not weight.requires_grad]
    return [(weight, weight.bfloat16()) for weight in frozen]


def _repeated(embeds: "dict[str, Tensor]", count: int) -> "dict[str, Tensor]":
    return {name: tensor[:1].expand(count, *tensor.shape[1:]).contiguous() for name, tensor in embeds.items()}


def frozen_dtype(device: str) -> "torch.dtype":
    """The precision of the weights that a training leaves as they are."""
    import torch

    return torch.float32 if device == "cpu" else torch.bfloat16
