"""What a base can do of what settings ask for, and why not, in sentences for the page.

Reads tables only: nothing is loaded. How anything is done is not known here.
"""

import os
from importlib.util import find_spec
from shutil import which

from engine.adapters.attention import KERNELS, REMEDY
from engine.cache import compute_capability
from engine.controls import KINDS
from engine.errors import BadSettings, MissingModel
from engine.families import Base, family
from engine.settings import AttentionName, GenerateSettings, StepCacheName, StyleTarget, Task, TrainSettings

LCM_MAX_STEPS = 50
COMPILERS = ("g++", "c++", "clang++", "cl")


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


def why_not_text_encoder(base: Base) -> str:
    """Why the text encoder of a base cannot learn with a LoRA, in a sentence; empty when it can."""
    can = base.spec.trained_text_encoders
    return "" if can else f"LoRAs for {base.spec.title} have no part for the text encoder."


def require_trainable(settings: TrainSettings, base: Base) -> None:
    """Raises: BadSettings for what of the base cannot be trained."""
    if settings.text_encoder_learning_rate > 0 and (problem := why_not_text_encoder(base)):
        raise BadSettings(problem, "Set the learning rate of the text encoder to 0, or choose another base.")


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


def why_not_guidance(base: Base) -> str:
    """Why CFG has no effect on a base, in a sentence; empty when it has."""
    return "" if base.guidance != "none" else f"CFG has no effect: {base.title} was distilled to do without."


def why_not_negative_prompt(settings: GenerateSettings, base: Base) -> str:
    """Why the negative prompt has no effect on a picture with these settings, in a sentence; empty when it has."""
    if family(base.family).guides(settings, base):
        return ""
    if "true_cfg" in base.spec.supports:
        return "The negative prompt has no effect at true CFG 1: choose more."
    if base.guidance == "two passes":
        return "The negative prompt has no effect at CFG 1: choose more."
    return f"The negative prompt has no effect: {base.title} was distilled to do without."


def why_not_guidance_interval(base: Base) -> str:
    """Why a base cannot be guided for a part of the steps, in a sentence; empty when it can."""
    can = "guidance_interval" in base.spec.supports and base.guidance == "two passes"
    return "" if can else f"{base.title} cannot be guided for a part of the steps."


def why_not_attention(name: AttentionName, base: Base) -> str:
    """Why a kernel cannot compute attention for a base on this machine, in a sentence; empty when it can. What the GPU
    lacks is known once torch is imported."""
    if name == "auto":
        return ""
    if "attention_kernels" not in base.spec.supports:
        return f"{base.title} leaves attention to PyTorch."
    kernel, capability = KERNELS[name], compute_capability()
    if kernel.package and find_spec(kernel.package) is None:
        return f"{kernel.title} needs the package {kernel.package}, which is not installed."
    if capability is not None and capability < kernel.capability:
        major, minor = kernel.capability
        return f"{kernel.title} needs an NVIDIA GPU of compute capability {major}.{minor} or more."
    return ""


def why_not_compile(settings: GenerateSettings, base: Base) -> str:
    """Why the blocks of a base cannot be compiled on this machine for such a picture, in a sentence; empty when they
    can."""
    if "compiled_blocks" not in base.spec.supports:
        return f"{base.title} has no blocks that diffusers can compile by themselves."
    if not any(map(which, (os.environ.get("CXX", ""), *COMPILERS))):
        return "Compiling needs a C++ compiler, such as g++, which is not installed."
    if settings.step_cache != "none":
        return "Compiled blocks do not go with a step cache."
    return ""


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
    if problem := why_not_attention(settings.attention, base):
        raise BadSettings(problem, REMEDY)
    if settings.compile and (problem := why_not_compile(settings, base)):
        raise BadSettings(problem, "Do without compiling, or choose another base.")
    is_partial = (settings.guidance_start, settings.guidance_end) != (0.0, 1.0)
    if is_partial and (problem := why_not_guidance_interval(base)):
        raise BadSettings(problem, "Let guidance start at 0 and end at 1, or choose another base.")
