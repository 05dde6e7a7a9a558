"""What a base can do of what settings ask for, and why not, in sentences for the page.

Reads tables only: nothing is loaded. How anything is done is not known here.
"""

from engine.controls import KINDS
from engine.errors import BadSettings, MissingModel
from engine.families import Base
from engine.settings import GenerateSettings, StepCacheName, StyleTarget, Task

LCM_MAX_STEPS = 50


def why_not_control(kind: str, base: Base) -> str:
    """Why a base cannot follow a kind of map, in a sentence; empty when it can."""
    if "controlnet" not in base.spec.supports:
        return f"There are no ControlNets for {base.spec.title}."
    title = KINDS[kind].title.lower() if kind in KINDS else kind
    return "" if kind in base.controlnets else f"{base.title} has no ControlNet for {title} yet."


def why_not_task(task: Task, base: Base) -> str:
    """Why a base cannot start from a picture, or repaint a part of one, in a sentence; empty when it can."""
    if base.spec.pipeline_for(task):
        return ""
    what = "start from a picture" if task == "image_to_image" else "repaint only a part of a picture"
    return f"{base.title} cannot {what}."


def why_not_style(target: StyleTarget, is_masked: bool, base: Base) -> str:
    """Why a base cannot take a reference, or only a part of it, or let it act in a part of the picture, in a sentence;
    empty when it can."""
    if "ip_adapter" not in base.spec.supports:
        return f"There are no style adapters for {base.spec.title}."
    if target not in base.spec.style_targets:
        return f"{base.title} cannot take only the {target} of a reference."
    if is_masked and "style_masks" not in base.spec.supports:
        return f"{base.title} cannot let a reference act in a part of the picture only."
    return "" if base.ip_adapter else f"{base.title} has no style adapter."


def require_supported(settings: GenerateSettings, base: Base) -> None:
    """Raises: MissingModel or BadSettings for what the base cannot do."""
    for use in settings.controls:
        if problem := why_not_control(use.kind, base):
            raise MissingModel(problem, "Choose another kind of layout, take the layout away, or choose another base.")
    for use in settings.styles:
        base.require_ip_adapter()
        if problem := why_not_style(use.target, bool(use.mask), base):
            raise BadSettings(problem, "Take all of it, everywhere, or choose another base.")
    if problem := why_not_task(settings.task, base):
        raise BadSettings(problem, "Take the start picture away, or choose another base.")
    if len(settings.styles) > base.spec.max_styles:
        count = base.spec.max_styles
        raise BadSettings(f"{base.title} takes {count} style reference at a time.", "Remove the others.")
    _require_form(settings, base)
    if settings.scheduler == "lcm" and settings.steps > LCM_MAX_STEPS:
        raise BadSettings(f"The LCM scheduler was asked for {settings.steps} steps.", f"Use at most {LCM_MAX_STEPS}.")


def why_not_step_cache(name: StepCacheName, base: Base) -> str:
    """Why a base cannot skip parts of its steps by a cache, in a sentence; empty when it can."""
    return "" if name in ("none", *base.spec.step_caches) else f"{base.title} has no such step cache."


def why_not_guidance_interval(base: Base) -> str:
    """Why a base cannot be guided for a part of the steps, in a sentence; empty when it can."""
    can = "guidance_interval" in base.spec.supports
    return "" if can else f"{base.title} cannot be guided for a part of the steps."


def _require_form(settings: GenerateSettings, base: Base) -> None:
    """Raises: BadSettings for a size, a scheduler or a guidance that the base's architecture has not."""
    spec = base.spec
    for side in ("width", "height"):
        value = getattr(settings, side)
        if value % spec.side_step_px:
            step = spec.side_step_px
            remedy = f"Use a multiple of {step}, such as {value // step * step}."
            raise BadSettings(f"The {side} is {value} px, which {base.title} cannot draw.", remedy)
    if settings.scheduler not in spec.schedulers:
        choices = ", ".join(spec.schedulers)
        raise BadSettings(f"{base.title} does not run with the scheduler {settings.scheduler}.", f"Choose: {choices}.")
    if settings.true_cfg_scale > 1 and "true_cfg" not in spec.supports:
        raise BadSettings(f"{base.title} has one guidance only, the CFG.", "Set true CFG to 1, or choose another base.")
    if problem := why_not_step_cache(settings.step_cache, base):
        raise BadSettings(problem, f"Choose: {', '.join(('none', *spec.step_caches))}.")
    is_partial = (settings.guidance_start, settings.guidance_end) != (0.0, 1.0)
    if is_partial and (problem := why_not_guidance_interval(base)):
        raise BadSettings(problem, "Let guidance start at 0 and end at 1, or choose another base.")
