"""What a base can do of what settings ask for, and why not, in sentences for the page.

Reads tables only: nothing is loaded. How anything is done is not known here.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which

from engine.adapters.attention import KERNELS, REMEDY
from engine.cache import compute_capability
from engine.controls import KINDS
from engine.errors import BadSettings, MissingModel
from engine.families import Base, family
from engine.settings import (
    AttentionName,
    ControlMode,
    GenerateSettings,
    StepCacheName,
    StyleTarget,
    Task,
    TrainSettings,
)

LCM_MAX_STEPS = 50
COMPILERS = ("g++", "c++", "clang++", "cl")


@dataclass(frozen=True)
class WhyNot:
    """Why a base cannot do what is asked of it, or why that has no effect: a sentence, empty when it can or has."""

    base: Base

    def control(self, kind: str) -> str:
        """It cannot follow a kind of map."""
        if "controlnet" not in self.base.spec.supports:
            return f"There are no ControlNets for {self.base.spec.title}."
        title = KINDS[kind].title.lower() if kind in KINDS else kind
        return "" if kind in self.base.controlnets else f"{self.base.title} has no ControlNet for {title} yet."

    def control_mode(self, mode: ControlMode) -> str:
        """Its CFG cannot act on a layout."""
        can = mode != "layout" or "control_modes" in self.base.spec.supports
        return "" if can else f"CFG of {self.base.title} does not act on layouts."

    def task(self, task: Task) -> str:
        """It cannot start from a picture, or repaint a part of one."""
        if self.base.spec.pipeline_for(task):
            return ""
        what = "start from a picture" if task == "image_to_image" else "repaint only a part of a picture"
        return f"{self.base.title} cannot {what}."

    def style(self, target: StyleTarget, is_masked: bool) -> str:
        """It cannot take a reference, or only a part of it, or let it act in a part of the picture."""
        if "ip_adapter" not in self.base.spec.supports:
            return f"There are no style adapters for {self.base.spec.title}."
        if target not in self.base.spec.style_targets:
            return f"{self.base.title} cannot take only the {target} of a reference."
        if is_masked and "style_masks" not in self.base.spec.supports:
            return f"{self.base.title} cannot let a reference act in a part of the picture only."
        return "" if self.base.ip_adapter else f"{self.base.title} has no style adapter."

    def text_encoder(self) -> str:
        """Its text encoder cannot learn with a LoRA."""
        can = self.base.spec.trained_text_encoders
        return "" if can else f"LoRAs for {self.base.spec.title} have no part for the text encoder."

    def step_cache(self, name: StepCacheName) -> str:
        """It cannot skip parts of its steps by a cache."""
        return "" if name in ("none", *self.base.spec.step_caches) else f"{self.base.title} has no such step cache."

    def guidance(self) -> str:
        """CFG has no effect."""
        can = self.base.guidance != "none"
        return "" if can else f"CFG has no effect: {self.base.title} was distilled to do without."

    def negative_prompt(self, settings: GenerateSettings) -> str:
        """The negative prompt has no effect on a picture with these settings."""
        if family(self.base.family).guides(settings, self.base):
            return ""
        if "true_cfg" in self.base.spec.supports:
            return "The negative prompt has no effect at true CFG 1: choose more."
        if self.base.guidance == "two passes":
            return "The negative prompt has no effect at CFG 1: choose more."
        return f"The negative prompt has no effect: {self.base.title} was distilled to do without."

    def guidance_interval(self) -> str:
        """It cannot be guided for a part of the steps."""
        can = "guidance_interval" in self.base.spec.supports and self.base.guidance == "two passes"
        return "" if can else f"{self.base.title} cannot be guided for a part of the steps."

    def attention(self, name: AttentionName) -> str:
        """A kernel cannot compute its attention on this machine. What the GPU lacks is known once torch is imported."""
        if name == "auto":
            return ""
        if "attention_kernels" not in self.base.spec.supports:
            return f"{self.base.title} leaves attention to PyTorch."
        kernel, capability = KERNELS[name], compute_capability()
        if kernel.package and find_spec(kernel.package) is None:
            return f"{kernel.title} needs the package {kernel.package}, which is not installed."
        if capability is not None and capability < kernel.capability:
            major, minor = kernel.capability
            return f"{kernel.title} needs an NVIDIA GPU of compute capability {major}.{minor} or more."
        return ""

    def compile(self, settings: GenerateSettings) -> str:
        """Its blocks cannot be compiled on this machine for such a picture."""
        if "compiled_blocks" not in self.base.spec.supports:
            return f"{self.base.title} has no blocks that diffusers can compile by themselves."
        if not any(map(which, (os.environ.get("CXX", ""), *COMPILERS))):
            return "Compiling needs a C++ compiler, such as g++, which is not installed."
        if settings.step_cache != "none":
            return "Compiled blocks do not go with a step cache."
        return ""


def require_trainable(settings: TrainSettings, base: Base) -> None:
    """Raises: BadSettings for what of the base cannot be trained."""
    if settings.text_encoder_learning_rate > 0 and (problem := WhyNot(base).text_encoder()):
        raise BadSettings(problem, "Set the learning rate of the text encoder to 0, or choose another base.")


def require_supported(settings: GenerateSettings, base: Base) -> None:
    """Raises: MissingModel or BadSettings for what the base cannot do."""
    why_not = WhyNot(base)
    for use in settings.controls:
        if problem := why_not.control(use.kind):
            raise MissingModel(problem, "Choose another kind of layout, take the layout away, or choose another base.")
        if problem := why_not.control_mode(use.mode):
            raise BadSettings(problem, "Set the control mode to balanced, or choose another base.")
    for use in settings.styles:
        base.require_ip_adapter()
        if problem := why_not.style(use.target, bool(use.mask)):
            raise BadSettings(problem, "Take all of it, everywhere, or choose another base.")
    if problem := why_not.task(settings.task):
        raise BadSettings(problem, "Take the start picture away, or choose another base.")
    if len(settings.styles) > base.spec.max_styles:
        count = base.spec.max_styles
        raise BadSettings(f"{base.title} takes {count} style reference at a time.", "Remove the others.")
    _require_form(settings, base)
    if settings.scheduler == "lcm" and settings.steps > LCM_MAX_STEPS:
        raise BadSettings(f"The LCM scheduler was asked for {settings.steps} steps.", f"Use at most {LCM_MAX_STEPS}.")


def _require_form(settings: GenerateSettings, base: Base) -> None:
    """Raises: BadSettings for a size, a scheduler or a guidance that the base's architecture has not."""
    spec, why_not = base.spec, WhyNot(base)
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
    if problem := why_not.step_cache(settings.step_cache):
        raise BadSettings(problem, f"Choose: {', '.join(('none', *spec.step_caches))}.")
    if problem := why_not.attention(settings.attention):
        raise BadSettings(problem, REMEDY)
    if settings.compile and (problem := why_not.compile(settings)):
        raise BadSettings(problem, "Do without compiling, or choose another base.")
    is_partial = (settings.guidance_start, settings.guidance_end) != (0.0, 1.0)
    if is_partial and (problem := why_not.guidance_interval()):
        raise BadSettings(problem, "Let guidance start at 0 and end at 1, or choose another base.")
