"""Making pictures: from settings to PNGs with their recipe, by diffusers' own pipeline over leased parts.

Every picture is denoised by itself, from noise that its seed alone decides, so that one of several is byte by byte the
one that its seed gives alone. How a base or an attachment works is not known here.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from engine import families
from engine.adapters import Attached, Control, Lora, Style, attach
from engine.adapters.ip_adapter import embed
from engine.cache import ModelCache, ValueCache, device_name, device_title
from engine.controls import KINDS, detect
from engine.controls.geometry import turned_left
from engine.controls.ready import fitted
from engine.errors import BadSettings, MissingModel
from engine.families import Base, Components, Embeds, guided
from engine.families.base import dtype_for, full_precision, weights_hash
from engine.jobs import Work
from engine.lora.files import read_lora
from engine.preview import Seen, coloured, denoised, latent_colours, watched
from engine.recipe import Recipe, png_bytes
from engine.settings import MAX_SEED, ControlUse, GenerateSettings, LoraUse, StyleUse
from engine.workspace import Workspace

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PREVIEWS = 4
LIBRARIES = ("torch", "diffusers", "transformers")
LCM_MAX_STEPS = 50

_VALUES = ValueCache()  # what follows from content alone, whichever workspace it lies in

OnStep = Callable[[int, int], None]


def generate(settings: GenerateSettings, *, workspace: Workspace, cache: ModelCache, work: Work) -> dict[str, Any]:
    """Make `settings.count` pictures, with the seeds from `settings.seed` on; each is kept as soon as it is finished.

    Returns {"pictures": ids, "seconds": float}. Raises: TripodError; Cancelled within one step.
    """
    began_s = time.perf_counter()
    base = families.base(settings.base)
    require_supported(settings, base)
    loras = [workspace.lora(use.lora) for use in settings.loras]
    pictures: list[str] = []

    work.started(f"Loading {base.title}")
    with _leased(settings, base, workspace, cache) as (parts, attachments):
        base_hash = weights_hash(base)
        colours = _VALUES.get(("latent colours", base_hash), partial(_colours, parts.vae))
        pipeline = families.family(base.family).pipeline(parts, settings.scheduler)
        _note_long_prompts(pipeline.tokenizer, settings, work)
        work.started("Drawing")
        with attach(parts, **attachments) as attached, watched(parts.unet) as seen:
            prompt = encode(pipeline, settings, base)
            reporter = _Reporter(work=work, settings=settings, scheduler=pipeline.scheduler, seen=seen, colours=colours)
            for i in range(settings.count):
                one = settings.replace(seed=(settings.seed + i) % (MAX_SEED + 1), count=1)
                drawing_s = time.perf_counter()
                image = render(pipeline, one, base, prompt=prompt, attached=attached, on_step=partial(reporter, i))
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
                pictures.append(workspace.add_picture(png, recipe.to_dict()).id)
    return {"pictures": pictures, "seconds": time.perf_counter() - began_s}


@lru_cache
def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _colours(vae: Any) -> "Tensor":
    with full_precision(vae):
        return latent_colours(vae)


def encode(pipeline: Any, settings: GenerateSettings, base: Base) -> Embeds:
    """The embeddings of the prompt and, with guidance, of the negative prompt, as arguments of the pipeline."""
    import torch

    family = families.family(base.family)
    with torch.no_grad():
        prompt = family.encode(pipeline, [settings.prompt])
        if settings.guidance_scale > 1:
            return guided(prompt, family.encode(pipeline, [settings.negative_prompt or None]))
        return prompt


def render(
    pipeline: Any,
    settings: GenerateSettings,
    base: Base,
    *,
    prompt: Embeds | None = None,
    attached: Attached | None = None,
    on_step: OnStep | None = None,
) -> "Image":
    """One picture from the noise of `settings.seed`.

    Args:
        prompt: from `encode`, if it is at hand.
        on_step: called with (steps done, steps in all) after every step; what it raises ends the picture.
    """
    import torch

    attached = attached or Attached()
    is_guided = settings.guidance_scale > 1

    def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        total = len(pipeline.scheduler.timesteps)
        attached.before_step(step + 1, total)
        if on_step:
            on_step(step + 1, total)
        return {}

    pipeline.scheduler.set_timesteps(settings.steps)  # some schedulers take a step more than asked
    attached.before_step(0, len(pipeline.scheduler.timesteps))
    return pipeline(
        **(prompt or encode(pipeline, settings, base)),
        ip_adapter_image_embeds=[e if is_guided else e[1:] for e in attached.style_embeddings] or None,
        width=settings.width,
        height=settings.height,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        guidance_rescale=base.guidance_rescale,
        generator=torch.Generator("cpu").manual_seed(settings.seed),
        callback_on_step_end=after_step,
        callback_on_step_end_tensor_inputs=[],
    ).images[0]


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


def why_not_control(kind: str, base: Base) -> str:
    """Why a base cannot follow a kind of map, in a sentence; empty when it can."""
    title = KINDS[kind].title.lower() if kind in KINDS else kind
    return "" if kind in base.controlnets else f"{base.title} has no ControlNet for {title} yet."


def require_supported(settings: GenerateSettings, base: Base) -> None:
    """Raises: MissingModel or BadSettings for what the base cannot do."""
    for use in settings.controls:
        if problem := why_not_control(use.kind, base):
            raise MissingModel(problem, "Choose another kind of layout, take the layout away, or choose another base.")
    for use in settings.styles:
        base.require_ip_adapter()
        if use.target not in base.spec.style_targets:
            targets = ", ".join(base.spec.style_targets)
            raise BadSettings(f"{base.title} cannot take only the {use.target} of a reference.", f"Choose: {targets}.")
    if settings.scheduler == "lcm" and settings.steps > LCM_MAX_STEPS:
        raise BadSettings(f"The LCM scheduler was asked for {settings.steps} steps.", f"Use at most {LCM_MAX_STEPS}.")


@contextmanager
def _leased(
    settings: GenerateSettings, base: Base, workspace: Workspace, cache: ModelCache
) -> Iterator[tuple[Components, dict[str, list[Any]]]]:
    """The parts of the base and what is to be attached to them, all pinned in the cache for the length of the body."""
    family = families.family(base.family)
    device = device_name()
    dtype = dtype_for(device)
    with ExitStack() as leases:

        def lease(*key: str, load: Callable[[], Any]) -> Any:
            return leases.enter_context(cache.lease((base.source, *key), load))

        def lora(use: LoraUse) -> Lora:
            record, path = workspace.lora(use.lora), workspace.lora_path(use.lora)
            file = lease("lora", record.sha256, load=lambda: read_lora(path, base, title=record.name))
            return Lora(file=file, weight=use.weight, start=use.start, end=use.end)

        def control(use: ControlUse) -> Control:
            load = partial(family.load_controlnet, base, use.kind, dtype, device)
            image = control_map(use, settings.width, settings.height, workspace, _VALUES, cache)
            if use.kind == "normal" and base.normals_point_left:
                image = turned_left(image)
            controlnet = lease("controlnet", use.kind, load=load)
            return Control(controlnet=controlnet, image=image, strength=use.strength, start=use.start, end=use.end)

        def style(use: StyleUse) -> Style:
            adapter = lease("ip_adapter", load=partial(family.load_ip_adapter, base, dtype, device))
            key = ("style", base.ip_adapter, use.image)
            embedding = _VALUES.get(key, lambda: embed(adapter, workspace.image(use.image)))
            return Style(adapter=adapter, embedding=embedding, weight=use.weight, start=use.start, end=use.end)

        yield (
            lease("base", load=partial(family.load, base, dtype, device)),
            {
                "loras": [lora(use) for use in settings.loras],
                "controls": [control(use) for use in settings.controls],
                "styles": [style(use) for use in settings.styles],
            },
        )


def _note_long_prompts(tokenizer: Any, settings: GenerateSettings, work: Work) -> None:
    for name, text in (("prompt", settings.prompt), ("negative prompt", settings.negative_prompt)):
        tokens, most = len(tokenizer(text).input_ids), tokenizer.model_max_length
        if tokens > most:
            work.note(f"The {name} has {tokens} tokens; this base reads the first {most}.")


@dataclass(frozen=True, kw_only=True)
class _Reporter:
    """Called after every step: whether to go on, how far it is, and now and then what the picture looks like."""

    work: Work
    settings: GenerateSettings
    scheduler: Any
    seen: Seen
    colours: "Tensor"

    def __call__(self, picture: int, step: int, steps: int) -> None:
        self.work.check_cancelled()
        count, size = self.settings.count, (self.settings.width, self.settings.height)
        which = f"Picture {picture + 1} of {count}, " if count > 1 else ""
        self.work.progress(picture * steps + step, count * steps, f"{which}step {step} of {steps}")
        if step % math.ceil(steps / (PREVIEWS + 1)) == 0 and step < steps:
            self.work.preview(coloured(denoised(self.seen, self.scheduler), self.colours, size))
