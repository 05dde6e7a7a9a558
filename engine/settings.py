"""Everything a person can ask for, as frozen dataclasses that refuse what cannot be done.

Settings are plain values: they go to and from JSON, travel in pictures and job folders, and compare by value. Images
are named by their content hash, LoRAs by their id in the workspace. Nothing here knows of torch, files or pages.
"""

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from engine.errors import BadSettings

ControlName = Literal[
    "canny", "openpose", "depth", "normal", "segmentation", "softedge", "lines", "scribble", "lineart"
]
Goal = Literal["product", "face", "character", "style"]
SchedulerName = Literal["default", "ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "unipc", "lcm"]
StyleTarget = Literal["all", "style", "layout"]
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


def _interval(settings: Any) -> None:
    _in_range(settings, "start", 0.0, 1.0)
    _in_range(settings, "end", 0.0, 1.0)
    _require(
        settings.start < settings.end,
        f"It starts at {settings.start:g} and ends at {settings.end:g}.",
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

    `image` is the content hash of a ready map when `detected`, else of a photo that the map is taken from first.
    """

    kind: ControlName
    image: str
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    detected: bool = False

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        return "Layout"

    def __post_init__(self) -> None:
        _in_range(self, "strength", 0.0, 2.0)
        _interval(self)


@dataclass(frozen=True, kw_only=True)
class StyleUse(Settings):
    """One style reference: palette, light and mood of the picture with content hash `image`."""

    image: str
    weight: float = 0.6
    target: StyleTarget = "all"
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def called(cls, values: dict[str, Any]) -> str:
        return "Style reference"

    def __post_init__(self) -> None:
        _in_range(self, "weight", 0.0, 1.5)
        _interval(self)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Settings):
    """A picture, or a few from consecutive seeds. Sizes in pixels, multiples of 8."""

    prompt: str
    negative_prompt: str = ""
    base: str = "starter"
    width: int = 256
    height: int = 256
    steps: int = 20
    guidance_scale: float = 4.0
    seed: int = 0
    count: int = 1
    scheduler: SchedulerName = "default"
    loras: tuple[LoraUse, ...] = ()
    controls: tuple[ControlUse, ...] = ()
    styles: tuple[StyleUse, ...] = ()

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
        _in_range(self, "seed", 0, MAX_SEED)
        _in_range(self, "count", 1, 16)
        _require(len(self.loras) <= 8, f"The stack has {len(self.loras)} LoRAs.", "Use at most 8.")
        _require(len(self.controls) <= 4, f"There are {len(self.controls)} controls.", "Use at most 4.")
        _require(len(self.styles) <= 4, f"There are {len(self.styles)} style references.", "Use at most 4.")
        repeated = len({use.lora for use in self.loras}) < len(self.loras)
        _require(not repeated, "One LoRA is in the stack twice.", "Keep it once, with the sum of the weights.")


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
