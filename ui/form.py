"""Settings to components and back, by name: what each setting is called on the page, what it means, its range.

`build` makes the component of one setting, `parse` turns the components' values into the dataclass, and `spread` goes
the other way. Nested settings have dotted names, such as `start.strength`, or `loras.0.weight` for one of several.
Nothing here knows of tabs.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from engine.settings import (
    MAX_SEED,
    CaptionSettings,
    ControlUse,
    GenerateSettings,
    LoraUse,
    Settings,
    StartImage,
    StyleUse,
    TrainSettings,
)

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Field:
    """How a setting is asked for. With a range and a `step` it is a slider, or a number box when `typed`."""

    label: str
    info: str = ""
    low: float | None = None
    high: float | None = None
    step: float = 1
    typed: bool = False
    lines: int = 1
    placeholder: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    expert: bool = False


def _interval(what: str) -> dict[str, Field]:
    return {
        "start": Field(label="From", info=f"Share of the steps after which {what} begins", low=0, high=1, step=0.05),
        "end": Field(label="Until", info=f"Share of the steps after which {what} ends", low=0, high=1, step=0.05),
    }


SCHEDULERS = (
    ("The base's own", "default"),
    ("DDIM", "ddim"),
    ("DDIM trailing", "ddim_trailing"),
    ("Euler", "euler"),
    ("Euler trailing", "euler_trailing"),
    ("Euler a", "euler_a"),
    ("DPM++ 2M", "dpmpp_2m"),
    ("DPM++ 2M Karras", "dpmpp_2m_karras"),
    ("UniPC", "unipc"),
    ("LCM", "lcm"),
    ("Shift 3, as Lightning takes it", "shift_3"),
)

MEMORY = (
    ("As it fits", "auto"),
    ("Everything on the device", "fast"),
    ("Decoded in tiles", "tiled"),
    ("CPU offload", "offload"),
    ("8 bit", "int8"),
    ("8 bit, CPU offload", "8bit"),
    ("4 bit, CPU offload", "4bit"),
    ("One layer at a time", "least"),
)
TRAINING_MEMORY = (
    ("As it fits", "auto"),
    ("Everything kept", "fast"),
    ("Gradient checkpointing", "recompute"),
    ("8 bit, gradient checkpointing", "8bit"),
    ("4 bit, gradient checkpointing", "4bit"),
)

ATTENTION = (
    ("As PyTorch does", "auto"),
    ("cuDNN", "cudnn"),
    ("FlashAttention 2", "flash"),
    ("FlashAttention 3", "flash_3"),
    ("SageAttention, 8 bit", "sage"),
    ("Plain, slow", "math"),
)

STEP_CACHES = (("None", "none"), ("First block", "first_block"), ("MagCache", "mag"))

GENERATE = {
    "prompt": Field(label="Prompt", placeholder="What the picture should show", lines=2),
    "negative_prompt": Field(label="Negative prompt", placeholder="What should not be in it"),
    "guidance_scale": Field(label="CFG", info="How closely to follow the prompt", low=1, high=30, step=0.5, typed=True),
    "true_cfg_scale": Field(
        label="True CFG", info="Above 1, Flux.1 keeps away from the negative prompt", low=1, high=30, step=0.5
    ),
    "guidance_start": Field(
        label="CFG from", info="Share of the steps after which it begins", low=0, high=1, step=0.05
    ),
    "guidance_end": Field(label="CFG until", info="Less than 1 is faster, and often richer", low=0, high=1, step=0.05),
    "step_cache": Field(
        label="Step cache", info="Skips what hardly changes: faster, a little less exact", choices=STEP_CACHES
    ),
    "step_cache_threshold": Field(
        label="Threshold", info="More is faster and less exact", low=0.01, high=0.5, step=0.01
    ),
    "attention": Field(label="Attention", info="Which kernel computes it", choices=ATTENTION),
    "compile": Field(label="Compile", info="The first picture takes minutes longer, those after it less"),
    "seed": Field(label="Seed", info="The same seed gives the same picture", low=0, high=MAX_SEED, typed=True),
    "width": Field(label="Width", info="px", low=64, high=2048, step=8, typed=True),
    "height": Field(label="Height", info="px", low=64, high=2048, step=8, typed=True),
    "steps": Field(label="Steps", info="More is finer and slower", low=1, high=150, typed=True),
    "count": Field(label="Pictures", info="From consecutive seeds", low=1, high=16, typed=True),
    "scheduler": Field(label="Scheduler", info="How the steps are taken", choices=SCHEDULERS, expert=True),
    "memory": Field(label="Memory", info="Each further choice takes less, and longer", choices=MEMORY, expert=True),
}

CONTROL_MODES = (("The base's own", "default"), ("Balanced", "balanced"), ("The layout counts more", "layout"))

LORA = {
    "lora": Field(label="LoRA"),
    "weight": Field(label="Weight", info="0 is off, 1 is as trained", low=-2, high=2, step=0.05),
    **_interval("it"),
}

CONTROL = {
    "kind": Field(label="Kind"),
    "image": Field(label="Picture"),
    "detected": Field(label="Already a map"),
    "strength": Field(label="Strength", info="How strictly to follow the layout", low=0, high=2, step=0.05),
    **_interval("the layout"),
    "mode": Field(
        label="Control mode", info="Whether CFG strengthens the prompt alone or the layout too", choices=CONTROL_MODES
    ),
}

STYLE = {
    "image": Field(label="Picture"),
    "weight": Field(label="Weight", info="How much of the look to take", low=0, high=1.5, step=0.05),
    "target": Field(
        label="Take",
        info="What to borrow from the picture",
        choices=(("Everything", "all"), ("Style only", "style"), ("Layout only", "layout")),
    ),
    "mask": Field(label="Mask", info="White where it acts"),
    **_interval("the look"),
}

START = {
    "image": Field(label="Picture"),
    "strength": Field(
        label="Denoising strength",
        info="How much of it may change: 0.3 a little, 0.9 nearly all",
        low=0,
        high=1,
        step=0.05,
    ),
    "mask": Field(label="Mask"),
    "feather_px": Field(label="Soft border", info="px inside the painted part that blend in", low=0, high=64),
    "only_masked": Field(label="Draw only the painted part, at full size"),
    "padding_px": Field(
        label="Surroundings", info="px around the painted part that are seen with it", low=0, high=256, step=8
    ),
}

TRAIN = {
    "dataset": Field(label="Photo set"),
    "name": Field(label="Name of the LoRA", placeholder="My subject"),
    "base": Field(label="Base", info="The model that learns"),
    "goal": Field(
        label="What is it?",
        choices=(("Product", "product"), ("Face", "face"), ("Character", "character"), ("Style", "style")),
    ),
    "trigger": Field(label="Trigger word", info="The rare word that will call it up", expert=True),
    "class_name": Field(label="Class", info="What kind of thing it is", expert=True),
    "steps": Field(label="Steps", info="Updates of the weights", low=1, high=100_000, typed=True, expert=True),
    "learning_rate": Field(
        label="Learning rate", info="How far each step goes", low=1e-7, high=1, step=1e-7, typed=True, expert=True
    ),
    "text_encoder_learning_rate": Field(
        label="Text encoder learning rate",
        info="0 leaves it as it is",
        low=0,
        high=1,
        step=1e-7,
        typed=True,
        expert=True,
    ),
    "rank": Field(label="Rank", info="How much the LoRA can hold", low=1, high=256, typed=True, expert=True),
    "alpha": Field(
        label="Alpha",
        info="Its effect is scaled by alpha / rank",
        low=0.01,
        high=512,
        step=0.01,
        typed=True,
        expert=True,
    ),
    "batch_size": Field(label="Batch size", info="Photos per step", low=1, high=64, typed=True, expert=True),
    "resolution": Field(
        label="Resolution", info="Side of the training squares, px", low=64, high=2048, step=64, typed=True, expert=True
    ),
    "caption_dropout": Field(
        label="Caption dropout",
        info="Share of photos shown without caption",
        low=0,
        high=1,
        step=0.05,
        typed=True,
        expert=True,
    ),
    "min_snr_gamma": Field(
        label="Min-SNR gamma",
        info="0 weighs all noise levels alike",
        low=0,
        high=100,
        step=0.5,
        typed=True,
        expert=True,
    ),
    "held_out_photos": Field(
        label="Held-out photos", info="Kept aside to measure with", low=0, high=10, typed=True, expert=True
    ),
    "seed": Field(
        label="Seed", info="The same seed trains the same LoRA", low=0, high=MAX_SEED, typed=True, expert=True
    ),
    "sample_every": Field(label="Samples every", info="steps", low=1, high=100_000, typed=True, expert=True),
    "checkpoint_every": Field(label="Checkpoint every", info="steps", low=1, high=100_000, typed=True, expert=True),
    "memory": Field(
        label="Memory", info="Each further choice takes less, and longer", choices=TRAINING_MEMORY, expert=True
    ),
    "sample_prompts": Field(label="Sample prompts", info="One a line; empty: chosen for you", lines=3, expert=True),
}

CAPTION = {
    "trigger": Field(label="Trigger word", info="A rare word for it", placeholder="sks"),
    "class_name": Field(label="Class", info="What kind of thing it is", placeholder="teddy bear"),
    "captioner": Field(label="Captioner", info="Who writes the captions"),
}

FORMS: dict[type[Settings], dict[str, Field]] = {
    GenerateSettings: GENERATE,
    LoraUse: LORA,
    ControlUse: CONTROL,
    StyleUse: STYLE,
    StartImage: START,
    TrainSettings: TRAIN,
    CaptionSettings: CAPTION,
}


def build(cls: type[Settings], name: str, **kwargs: Any) -> Any:
    """The component of the setting `name`, starting at the dataclass's default; `kwargs` go to the component."""
    field = FORMS[cls][name]
    hint, default = _hints(cls)[name], _default(cls, name)
    shown: dict[str, Any] = {"label": field.label, "info": field.info or None, "value": _to_component(default)} | kwargs
    if hint is bool:
        return gr.Checkbox(**shown)
    if field.low is not None:
        shown |= {"minimum": field.low, "maximum": field.high, "step": field.step}
        shown |= {"precision": 0} if hint is int else {}
        return gr.Number(**shown) if field.typed else gr.Slider(buttons=[], **shown)
    if field.choices or "choices" in kwargs:
        return gr.Dropdown(**{"choices": list(field.choices), **shown})
    return gr.Textbox(**{"lines": field.lines, "placeholder": field.placeholder, **shown})


def parse(cls: type[S], values: Mapping[str, Any]) -> S:
    """The settings that the components' values ask for; nested ones without their LoRA or picture are left out.

    Raises: BadSettings.
    """
    hints = _hints(cls)
    plain: dict[str, Any] = {}
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            index, _, key = rest.rpartition(".")
            rows.setdefault(name, {}).setdefault(index, {})[key] = value
        else:
            plain[name] = _from_component(hints[name], value)
    for name, by_index in rows.items():
        required = _required(_row_type(hints[name]))
        filled = [row for row in by_index.values() if all(row[key] for key in required)]
        plain[name] = filled if typing.get_origin(hints[name]) is tuple else next(iter(filled), None)
    return cls.from_dict(plain)


def spread(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The components' values that ask for `settings`: what `parse` undoes. Rows that it lacks get their defaults."""
    return {name: _to_component(_at(settings, name)) for name in names}


def _at(settings: Settings, path: str) -> Any:
    name, _, rest = path.partition(".")
    value = getattr(settings, name)
    if not rest:
        return value
    index, _, key = rest.rpartition(".")
    rows = value if isinstance(value, tuple) else (value,) if value else ()
    if int(index or 0) < len(rows):
        return getattr(rows[int(index or 0)], key)
    return _default(_row_type(_hints(type(settings))[name]), key)


def _hints(cls: type[Settings]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _row_type(hint: Any) -> type[Settings]:
    return typing.get_args(hint)[0]


def _default(cls: type[Settings], name: str) -> Any:
    """None where the setting has no default, which leaves its component empty."""
    default = next(f.default for f in dataclasses.fields(cls) if f.name == name)  # type: ignore[arg-type]
    return None if default is dataclasses.MISSING else default


def _required(cls: type[Settings]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]  # type: ignore[arg-type]


def _from_component(hint: Any, value: Any) -> Any:
    if hint == tuple[str, ...]:
        return [line.strip() for line in value.splitlines() if line.strip()]
    return value


def _to_component(value: Any) -> Any:
    return "\n".join(value) if isinstance(value, tuple) else value
