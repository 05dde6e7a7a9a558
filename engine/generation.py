"""Making pictures: from settings to PNGs with their recipe, by diffusers' own pipeline over leased parts.

Every picture is denoised by itself, from noise that its seed alone decides, so that one of several is byte by byte the
one that its seed gives alone. How a base or an attachment works is not known here.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from engine import families
from engine.abilities import WhyNot, require_supported
from engine.adapters import Attached, Control, Lora, Style, attach
from engine.adapters.attention import attending
from engine.adapters.compiled import compiled
from engine.adapters.guidance import attach_guidance
from engine.adapters.inpainting import as_ordinary
from engine.adapters.ip_adapter import EVERYWHERE, embed
from engine.adapters.step_cache import attach_step_cache
from engine.cache import ModelCache, ValueCache, device_name, device_title
from engine.controls import detect
from engine.controls.geometry import turned_left
from engine.controls.ready import fitted
from engine.families import Base, Components, Embeds, Family, guided
from engine.families.base import dtype_for, full_precision, weights_hash
from engine.jobs import Work
from engine.lora.files import read_lora
from engine.memory.advice import backing_off, for_picture
from engine.memory.plans import GENERATION, Plan
from engine.memory.run import followed, load_base
from engine.preview import Seen, coloured, latent_colours, watched
from engine.recipe import Recipe, png_bytes
from engine.settings import MAX_SEED, ControlUse, GenerateSettings, LoraUse, StyleUse
from engine.start_picture import Start, start_from
from engine.style_mask import style_mask
from engine.workspace import Workspace

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PREVIEWS = 4
LIBRARIES = ("torch", "diffusers", "transformers")

_VALUES = ValueCache()  # what follows from content alone, whichever workspace it lies in

OnStep = Callable[[int, int], None]


def generate(settings: GenerateSettings, *, workspace: Workspace, cache: ModelCache, work: Work) -> dict[str, Any]:
    """Make `settings.count` pictures, with the seeds from `settings.seed` on; each is kept as soon as it is finished.

    Returns {"pictures": ids, "seconds": float}. Raises: TripodError; Cancelled within one step.
    """
    began_s = time.perf_counter()
    base = families.base(settings.base)
    device_name()  # imports torch: from here on it is known what the GPU can do
    require_supported(settings, base)
    pictures: list[str] = []

    def draw(plan: Plan) -> None:
        drawn = _drawn(settings, base, plan, len(pictures), workspace=workspace, cache=cache, work=work)
        for picture in drawn:  # each is kept, also when memory runs out for the next
            pictures.append(picture)

    work.started(f"Loading {base.title}")
    plan = for_picture(settings, base, workspace, cache).plan
    backing_off(draw, plan, GENERATION, work, cache.release_all)
    return {"pictures": pictures, "seconds": time.perf_counter() - began_s}


def _drawn(
    settings: GenerateSettings,
    base: Base,
    plan: Plan,
    finished: int,
    *,
    workspace: Workspace,
    cache: ModelCache,
    work: Work,
) -> Iterator[str]:
    """Make and keep the pictures after those that are `finished`; yields the id of each."""
    loras = [workspace.lora(use.lora) for use in settings.loras]
    start = start_of(settings, workspace)
    family = families.family(base.family)
    is_masked = "attention_masks" in base.spec.supports and family.guides(settings, base)
    with (
        attending(settings.attention, is_masked=is_masked),
        _leased(settings, start, base, plan, workspace, cache) as (parts, attachments),
    ):
        base_hash = weights_hash(base)
        colours = _VALUES.get(("latent colours", base_hash), partial(_colours, parts, base))
        pipeline = family.pipeline(parts, settings.scheduler, settings.task)
        if settings.step_cache != "none" and settings.controls:
            work.note("The step cache is off for this picture: with it, a layout may not hold.")
        is_compiled = settings.compile and plan.offload != "layers"
        if settings.compile and not is_compiled:
            work.note("Blocks are not compiled while only one layer at a time is on the device.")
        _note_what_is_not_read(pipeline, settings, base, work)
        work.started("Drawing")
        with (
            attach(parts, **attachments, in_slots=is_compiled) as attached,
            watched(parts) as seen,
            followed(plan, pipeline, base, device_name()),
            compiled(parts.denoiser) if is_compiled else nullcontext(),
        ):
            prompt = encode(pipeline, settings, base)
            guess = partial(_guess, parts, pipeline.scheduler, seen)
            reporter = _Reporter(work=work, settings=settings, guess=guess, colours=colours)
            for i in range(finished, settings.count):
                one = settings.replace(seed=(settings.seed + i) % (MAX_SEED + 1), count=1)
                drawing_s = time.perf_counter()
                image = render(
                    pipeline, one, base, prompt=prompt, attached=attached, start=start, on_step=partial(reporter, i)
                )
                recipe = Recipe(
                    settings=one,
                    seed=one.seed,
                    base_hash=base_hash,
                    lora_hashes={lora.id: lora.sha256 for lora in loras},
                    versions=_versions(),
                    device=device_title(),
                    duration_s=time.perf_counter() - drawing_s,
                )
                png = png_bytes(image, recipe, {lora.id: lora.name for lora in loras})
                yield workspace.add_picture(png, recipe.to_dict()).id


@lru_cache
def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _colours(parts: Components, base: Base) -> "Tensor":
    with full_precision(parts.vae):
        return latent_colours(parts.latents_of, base.spec.vae_scale)


def _guess(parts: Components, scheduler: Any, seen: Seen) -> "Tensor":
    return parts.clean_latents(scheduler, seen.args, seen.kwargs, seen.output)


def encode(pipeline: Any, settings: GenerateSettings, base: Base) -> Embeds:
    """The embeddings of the prompt and, with guidance, of the negative prompt, as arguments of the pipeline."""
    import torch

    family = families.family(base.family)
    with torch.no_grad():
        prompt = family.encode(pipeline, [settings.prompt])
        if family.guides(settings, base):
            return guided(prompt, family.encode(pipeline, [settings.negative_prompt or None]))
        return prompt


def render(
    pipeline: Any,
    settings: GenerateSettings,
    base: Base,
    *,
    prompt: Embeds | None = None,
    attached: Attached | None = None,
    start: Start | None = None,
    on_step: OnStep | None = None,
) -> "Image":
    """One picture from the noise of `settings.seed`.

    Args:
        pipeline: the family's for the task of the settings.
        prompt: from `encode`, if it is at hand.
        start: what `settings.start` names.
        on_step: called with (steps done, steps in all) after every step; what it raises ends the picture.
    """
    import torch

    family = families.family(base.family)
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    with ExitStack() as stack:
        attached = _guidance(attached or Attached(), pipeline, settings, base, stack)

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            attached.before_step(step + 1, pipeline.num_timesteps)
            if on_step:
                on_step(step + 1, pipeline.num_timesteps)
            return {}

        attached.begin(generator)
        steps = _steps(pipeline, settings, family)
        attached.before_step(0, steps)
        if settings.step_cache != "none" and not settings.controls:
            denoiser, threshold = getattr(pipeline, base.spec.denoiser), settings.step_cache_threshold
            stack.enter_context(attach_step_cache(denoiser, settings.step_cache, threshold=threshold, steps=steps))
        drawn = pipeline(
            **family.arguments(settings, prompt or encode(pipeline, settings, base), attached.style_embeddings),
            **(_started(start, pipeline, family, stack) if start else {}),
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            generator=generator,
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=[],
        ).images[0]
    return start.put_back(drawn) if start else drawn


def _steps(pipeline: Any, settings: GenerateSettings, family: Family) -> int:
    """How many steps will be taken: some schedulers take one more than asked, and a start leaves out the first."""
    family.set_steps(pipeline.scheduler, settings.steps)
    if settings.start is None:
        return len(pipeline.scheduler.timesteps)
    timesteps, _ = pipeline.get_timesteps(settings.steps, settings.start.strength, pipeline.device)
    return len(timesteps)


def _guidance(attached: Attached, pipeline: Any, settings: GenerateSettings, base: Base, stack: ExitStack) -> Attached:
    """Guidance as the base and the settings want it, where the pipeline's own would not do."""
    interval = settings.guidance_start, settings.guidance_end
    if settings.guidance_scale == 1 or (base.guidance_rescale == 0 and interval == (0.0, 1.0)):
        return attached
    guidance = attach_guidance(
        getattr(pipeline, base.spec.denoiser),
        settings.guidance_scale,
        rescale=base.guidance_rescale,
        start=settings.guidance_start,
        end=settings.guidance_end,
    )
    return replace(attached, switches=(*attached.switches, stack.enter_context(guidance)))


def _started(start: Start, pipeline: Any, family: Family, stack: ExitStack) -> dict[str, Any]:
    """The start as arguments of a pipeline."""
    if start.mask and hasattr(pipeline, "unet"):
        stack.enter_context(as_ordinary(pipeline.unet))
    return family.started(pipeline, start.image, start.mask, start.strength)


def start_of(settings: GenerateSettings, workspace: Workspace) -> Start | None:
    """The picture to start from, if there is one. Raises: NotFound, BadImage."""
    use = settings.start
    if use is None:
        return None
    mask = workspace.image(use.mask) if use.mask else None
    return start_from(use, workspace.image(use.image), mask, settings.width, settings.height)


def control_map(
    use: ControlUse,
    width: int,
    height: int,
    workspace: Workspace,
    values: ValueCache,
    models: ModelCache | None = None,
) -> "Image":
    """The map of a control at the size of the picture, cut to its shape around the middle. `models` keeps a detector's
    network. Raises: NothingDetected, MissingModel."""
    from PIL import Image, ImageOps

    def make() -> Image.Image:
        image = workspace.image(use.image).convert("RGB")
        if use.detected:
            return fitted(use.kind, image, width, height)
        return detect(use.kind, ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS), models=models)

    return values.get(("map", use.kind, use.image, use.detected, width, height), make)


@contextmanager
def _leased(
    settings: GenerateSettings, start: Start | None, base: Base, plan: Plan, workspace: Workspace, cache: ModelCache
) -> Iterator[tuple[Components, dict[str, list[Any]]]]:
    """The parts of the base and what is to be attached to them, all pinned in the cache for the length of the body."""
    family = families.family(base.family)
    device = device_name()
    dtype = dtype_for(device, base.spec)
    with ExitStack() as leases:

        def lease(*key: str, load: Callable[[], Any]) -> Any:
            return leases.enter_context(cache.lease((base.source, *key), load))

        def lora(use: LoraUse) -> Lora:
            record, path = workspace.lora(use.lora), workspace.lora_path(use.lora)
            file = lease("lora", record.sha256, load=lambda: read_lora(path, base, title=record.name))
            return Lora(file=file, weight=use.weight, start=use.start, end=use.end)

        def control(use: ControlUse) -> Control:
            load = partial(family.load_controlnet, base, use.kind, dtype, device)
            make = partial(control_map, use, workspace=workspace, values=_VALUES, models=cache)
            image = _of_part(make, start, settings)
            if use.kind == "normal" and base.normals_point_left:
                image = turned_left(image)
            controlnet = lease("controlnet", base.require_controlnet(use.kind), load=load)
            return Control(
                controlnet=controlnet,
                image=image,
                kind=use.kind,
                strength=use.strength,
                start=use.start,
                end=use.end,
                guided=base.guides_control(use),
            )

        def style(use: StyleUse) -> Style:
            adapter = lease("ip_adapter", load=partial(family.load_ip_adapter, base, dtype, device))
            key = ("style", base.ip_adapter, use.image)
            embedding = _VALUES.get(key, lambda: embed(adapter, workspace.image(use.image)))
            return Style(
                adapter=adapter,
                embedding=embedding,
                weight=use.weight,
                start=use.start,
                end=use.end,
                blocks=base.spec.style_blocks.get(use.target, EVERYWHERE),
                mask=_of_part(partial(style_mask, workspace.image(use.mask)), start, settings) if use.mask else None,
            )

        kept = str(plan.bits), str(plan.quantiser), plan.offload
        yield (
            lease("base", *kept, load=partial(load_base, base, dtype, device, plan)),
            {
                "loras": [lora(use) for use in settings.loras],
                "controls": [control(use) for use in settings.controls],
                "styles": [style(use) for use in settings.styles],
            },
        )


def _of_part(make: "Callable[[int, int], Image]", start: Start | None, settings: GenerateSettings) -> "Image":
    """A map or mask of the size of what is drawn; where that is a part of the start, cut from one of the whole."""
    if start is None or start.whole is None:
        return make(settings.width, settings.height)
    return start.seen(make(*start.whole.size), settings.width, settings.height)


def _note_what_is_not_read(pipeline: Any, settings: GenerateSettings, base: Base, work: Work) -> None:
    why_not = WhyNot(base)
    if settings.guidance_scale != 1 and (reason := why_not.guidance()):
        work.note(reason)
    if settings.negative_prompt and (reason := why_not.negative_prompt(settings)):
        work.note(reason)
    tokenizer, most = families.family(base.family).reads(pipeline)
    for name, text in (("prompt", settings.prompt), ("negative prompt", settings.negative_prompt)):
        tokens = len(tokenizer(text).input_ids)
        if tokens > most:
            work.note(f"The {name} has {tokens} tokens; this base reads the first {most}.")


@dataclass(frozen=True, kw_only=True)
class _Reporter:
    """Called after every step: whether to go on, how far it is, and now and then what the picture looks like."""

    work: Work
    settings: GenerateSettings
    guess: "Callable[[], Tensor]"
    colours: "Tensor"

    def __call__(self, picture: int, step: int, steps: int) -> None:
        self.work.check_cancelled()
        count, size = self.settings.count, (self.settings.width, self.settings.height)
        which = f"Picture {picture + 1} of {count}, " if count > 1 else ""
        self.work.progress(picture * steps + step, count * steps, f"{which}step {step} of {steps}")
        if step % math.ceil(steps / (PREVIEWS + 1)) == 0 and step < steps:
            self.work.preview(coloured(self.guess(), self.colours, size))
