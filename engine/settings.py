"""Everything a person can ask for, as frozen dataclasses that refuse what cannot be done.

Settings are plain values: they go to and from JSON, travel in pictures and job folders, and compare by value. Images
are named by their content hash, LoRAs by their id in the workspace. Nothing here knows of torch, files or pages.
"""

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from engine.errors import BadSettings

ControlName = Literal[
    "canny", "openpose", "depth", "normal", "segmentation", "softedge", "lines", "scribble", "lineart"
]
ControlMode = Literal["default", "balanced", "layout"]
Goal = Literal["product", "face", "character", "style"]
DiffusionSchedulerName = Literal[
    "default",
    "ddim",
    "ddim_trailing",
    "euler",
    "euler_trailing",
    "euler_a",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "unipc",
    "lcm",
]
SchedulerName = Literal[DiffusionSchedulerName, "shift_3"]
StepCacheName = Literal["none", "first_block", "mag"]
AttentionName = Literal["auto", "math", "cudnn", "flash", "flash_3", "sage"]
StyleTarget = Literal["all", "style", "layout"]
Task = Literal["text_to_image", "image_to_image", "inpainting"]
MemoryChoice = Literal["auto", "fast", "tiled", "offload", "int8", "8bit", "4bit", "least"]
TrainingMemoryChoice = Literal["auto", "fast", "recompute", "8bit", "4bit"]
MAX_SEED = 2**32 - 1


def _require(holds: bool, problem: str, remedy: str) -> None:
    if not holds:
        raise BadSettings(problem, remedy)


def _in_range(settings: Any, name: str, low: float, high: float) -> None:
    value = getattr(settings, name)
    _require(
        low <= value <= high,
        f"{name.replace('_', ' ').capitalize()} is {value}.",
        f"Choose a value from {low:g} to {high:g}.",
    )


def _interval(settings: Any, of: str = "") -> None:
    start, end = f"{of}start", f"{of}end"
    _in_range(settings, start, 0.0, 1.0)
    _in_range(settings, end, 0.0, 1.0)
    _require(
        getattr(settings, start) < getattr(settings, end),
        f"{of.strip('_').capitalize() or 'It'} starts at {getattr(settings, start):g} "
        f"and ends at {getattr(settings, end):g}.",
        "Let it end after it starts; 0 is the first step and 1 the last.",
    )


class Settings:
    """To and from plain JSON values, refusing unknown keys and values of the wrong type."""

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        """What errors call the row of a list that has these values; empty for settings that stand alone."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises: BadSettings naming the key that is unknown, missing or of the wrong type."""
        _require(isinstance(values, dict), f"The settings are {values!r:.80}.", "Give names with values.")
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        hints = _type_hints(cls)
        for key in values:
            _require(key in known, f"There is no setting called {key!r:.80}.", "Remove it.")
        for name, f in known.items():
            optional = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
            _require(optional or name in values, f"The setting {name!r} is missing.", "Give it a value.")
        return cls(**{key: _parse(key, value, hints[key]) for key, value in values.items()})

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


_type_hints = functools.cache(typing.get_type_hints)


def _parse(name: str, value: Any, hint: Any) -> Any:
    """One JSON value as the type `hint` asks for: nested settings, tuples, literals, optionals and plain values."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BadSettings(f"The setting {name!r} is {value!r:.80}.", "Give a list.")
        return tuple(_parse(name, item, args[0]) for item in value)
    if origin is types.UnionType:
        return None if value is None else _parse(name, value, next(a for a in args if a is not type(None)))
    if origin is Literal:
        _require(value in args, f"The setting {name!r} is {value!r:.80}.", f"Choose one of: {', '.join(args)}.")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise BadSettings(f"The setting {name!r} is {value!r:.80}.", "Give names with values.")
        return value if args[1] is Any else {key: _parse(name, item, args[1]) for key, item in value.items()}
    if isinstance(value, dict) and issubclass(hint, Settings):
        try:
            return hint.from_dict(value)
        except BadSettings as error:
            row, problem = hint.called(value), error.problem
            raise BadSettings(f"{row}: {problem[0].lower()}{problem[1:]}" if row else problem, error.remedy) from error
    _require(value is not None, f"The setting {name!r} is empty.", "Give it a value.")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    matches = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _require(matches, f"The setting {name!r} is {value!r:.80}.", f"Give a value of type {hint.__name__}.")
    return value


@dataclass(frozen=True, kw_only=True)
class LoraUse(Settings):
    """One LoRA of a stack: its id in the workspace, how strongly, and during which part of the steps."""

    lora: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        return f"LoRA {str(values.get('lora', ''))[:60]!r}"

    def __post_init__(self) -> None:
        _in_range(self, "weight", -2.0, 2.0)
        _interval(self)


@dataclass(frozen=True, kw_only=True)
class ControlUse(Settings):
    """One control: the picture that decides where things go.

    `image` is the content hash of a ready map when `detected`, else of a photo that the map is taken from first. With
    the `mode` "layout" CFG strengthens the layout as it does the prompt, with "balanced" the prompt alone; "default" is
    the base's own.
    """

    kind: ControlName
    image: str
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    detected: bool = False
    mode: ControlMode = "default"

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        return "Layout"

    def __post_init__(self) -> None:
        _in_range(self, "strength", 0.0, 2.0)
        _interval(self)


@dataclass(frozen=True, kw_only=True)
class StyleUse(Settings):
    """One style reference: palette, light and mood of the picture with content hash `image`.

    With a `mask`, also a content hash, it acts where that is white, once it is fitted to the picture.
    """

    image: str
    weight: float = 0.6
    target: StyleTarget = "all"
    start: float = 0.0
    end: float = 1.0
    mask: str = ""

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        return "Style reference"

    def __post_init__(self) -> None:
        _in_range(self, "weight", 0.0, 1.5)
        _interval(self)


@dataclass(frozen=True, kw_only=True)
class StartImage(Settings):
    """The picture to start from instead of noise, by content hash, and how much of it may change (`strength`, the
    denoising strength: the share of the steps that are taken).

    With a `mask`, the hash of a picture of the same size, only what is white in it is repainted; the new blends in over
    `feather_px` inside its border. `only_masked` draws the surroundings of the mask, `padding_px` wide, at the full
    size of the picture and puts them back into the start, which keeps its own size.
    """

    image: str
    strength: float = 0.6
    mask: str = ""
    feather_px: int = 4
    only_masked: bool = False
    padding_px: int = 32

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        return "Start picture"

    def __post_init__(self) -> None:
        _require(
            self.strength > 0,
            f"Denoising strength is {self.strength:g}, which leaves the picture as it is.",
            "Choose a value above 0, up to 1.",
        )
        _require(self.strength <= 1, f"Denoising strength is {self.strength:g}.", "Choose a value above 0, up to 1.")
        _in_range(self, "feather_px", 0, 64)
        _in_range(self, "padding_px", 0, 256)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Settings):
    """A picture, or a few from consecutive seeds. Sizes in pixels, multiples of 8. Guidance acts from one fraction of
    the steps to another; true CFG is guidance besides, for bases that were distilled from guided pictures. A step cache
    takes over what differs from the step before by less than its threshold."""

    prompt: str
    negative_prompt: str = ""
    base: str = "starter"
    width: int = 256
    height: int = 256
    steps: int = 20
    guidance_scale: float = 2.5
    true_cfg_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    step_cache: StepCacheName = "none"
    step_cache_threshold: float = 0.06
    seed: int = 0
    count: int = 1
    scheduler: SchedulerName = "default"
    loras: tuple[LoraUse, ...] = ()
    controls: tuple[ControlUse, ...] = ()
    styles: tuple[StyleUse, ...] = ()
    start: StartImage | None = None
    memory: MemoryChoice = "auto"
    attention: AttentionName = "auto"
    compile: bool = False

    @property
    def task(self) -> Task:
        if self.start is None:
            return "text_to_image"
        return "inpainting" if self.start.mask else "image_to_image"

    def __post_init__(self) -> None:
        _require(self.prompt.strip() != "", "The prompt is empty.", "Say what the picture should show.")
        for text in ("prompt", "negative_prompt"):
            length = len(getattr(self, text))
            _require(length <= 2000, f"The {text.replace('_', ' ')} has {length} characters.", "Use at most 2000.")
        for side in ("width", "height"):
            _in_range(self, side, 64, 2048)
            value = getattr(self, side)
            _require(value % 8 == 0, f"The {side} is {value} px.", f"Use a multiple of 8, such as {value // 8 * 8}.")
        _in_range(self, "steps", 1, 150)
        _in_range(self, "guidance_scale", 1.0, 30.0)
        _in_range(self, "true_cfg_scale", 1.0, 30.0)
        _interval(self, "guidance_")
        _in_range(self, "step_cache_threshold", 0.01, 0.5)
        _in_range(self, "seed", 0, MAX_SEED)
        _in_range(self, "count", 1, 16)
        _require(len(self.loras) <= 8, f"The stack has {len(self.loras)} LoRAs.", "Use at most 8.")
        _require(len(self.controls) <= 4, f"There are {len(self.controls)} controls.", "Use at most 4.")
        _require(len(self.styles) <= 4, f"There are {len(self.styles)} style references.", "Use at most 4.")
        repeated = len({use.lora for use in self.loras}) < len(self.loras)
        _require(not repeated, "One LoRA is in the stack twice.", "Keep it once, with the sum of the weights.")
        if self.start is not None:
            _require(
                int(self.steps * self.start.strength) >= 1,
                f"A denoising strength of {self.start.strength:g} leaves none of the {self.steps} steps.",
                f"Choose at least {math.ceil(100 / self.steps) / 100:g}, or more steps.",
            )


@dataclass(frozen=True, kw_only=True)
class SheetSettings(Settings):
    """One subject over a set of prompts: `picture` is what all pictures share, and each of `prompts` goes on after its
    prompt. With `poses`, or other layouts, every prompt is drawn in every one of them.

    A picture whose identity is below `accept`, a share of what real photos of the subject reach, is drawn again with
    another seed, at most `retries` times.
    """

    picture: GenerateSettings
    prompts: tuple[str, ...]
    poses: tuple[ControlUse, ...] = ()
    accept: float = 0.7
    retries: int = 2

    def __post_init__(self) -> None:
        _require(len(self.prompts) > 0, "There are no prompts.", "Give one a line, such as: on the beach.")
        _require(all(prompt.strip() for prompt in self.prompts), "One of the prompts is empty.", "Take it away.")
        cells = len(self.prompts) * max(1, len(self.poses))
        _require(cells <= 64, f"The sheet has {cells} pictures.", "Use at most 64: fewer prompts or fewer poses.")
        _require(len(self.picture.loras) > 0, "There is no LoRA.", "Choose the LoRA of the subject.")
        _in_range(self, "accept", 0.0, 1.0)
        _in_range(self, "retries", 0, 8)


@dataclass(frozen=True, kw_only=True)
class CropBox(Settings):
    """A square of a photo, in its pixels: left and top corner, and side."""

    left_px: int
    top_px: int
    side_px: int

    def __post_init__(self) -> None:
        _in_range(self, "left_px", 0, 100_000)
        _in_range(self, "top_px", 0, 100_000)
        _in_range(self, "side_px", 16, 100_000)


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(Settings):
    """Who writes the captions, for which photos, and what stands in front: `trigger`, then `class_name`."""

    dataset: str
    captioner: str = "starter"
    trigger: str = ""
    class_name: str = ""
    only_empty: bool = False
    photos: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(len(self.trigger) <= 40, f"The trigger word has {len(self.trigger)} characters.", "Use at most 40.")
        _require(len(self.class_name) <= 60, f"The class has {len(self.class_name)} characters.", "Use at most 60.")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """One LoRA training. The effective scale of the LoRA is alpha / rank; learning rates carry over only with it."""

    dataset: str
    name: str
    base: str = "starter"
    goal: Goal = "product"
    trigger: str = "sks"
    class_name: str = ""
    rank: int = 16
    alpha: float = 16.0
    learning_rate: float = 1e-3
    text_encoder_learning_rate: float = 0.0
    steps: int = 400
    batch_size: int = 4
    resolution: int = 256
    caption_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    seed: int = 0
    held_out_photos: int = 2
    sample_prompts: tuple[str, ...] = ()
    sample_every: int = 100
    checkpoint_every: int = 50
    memory: TrainingMemoryChoice = "auto"

    def __post_init__(self) -> None:
        _require(self.name.strip() != "", "The LoRA has no name.", "Give it a name.")
        _require(len(self.name) <= 60, f"The name has {len(self.name)} characters.", "Use at most 60.")
        _require(self.trigger.strip() != "", "The trigger word is empty.", "Give a rare word, such as sks.")
        _in_range(self, "rank", 1, 256)
        _in_range(self, "alpha", 0.01, 512)
        _in_range(self, "learning_rate", 1e-7, 1.0)
        _in_range(self, "text_encoder_learning_rate", 0.0, 1.0)
        _in_range(self, "steps", 1, 100_000)
        _in_range(self, "batch_size", 1, 64)
        _in_range(self, "resolution", 64, 2048)
        _require(self.resolution % 64 == 0, f"The resolution is {self.resolution} px.", "Use a multiple of 64.")
        _in_range(self, "caption_dropout", 0.0, 1.0)
        _in_range(self, "min_snr_gamma", 0.0, 100.0)
        _in_range(self, "seed", 0, MAX_SEED)
        _in_range(self, "held_out_photos", 0, 10)
        _in_range(self, "sample_every", 1, 100_000)
        _in_range(self, "checkpoint_every", 1, 100_000)
