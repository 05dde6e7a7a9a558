"""The form against the settings it asks for: names, ranges, and there and back again."""

import dataclasses
import typing
from typing import Any

import gradio as gr
import pytest

from engine.errors import BadSettings
from engine.settings import ControlUse, GenerateSettings, LoraUse, Settings, StartImage, StyleUse, TrainSettings
from ui import form

ENOUGH: dict[type[Settings], dict[str, Any]] = {
    GenerateSettings: {"prompt": "a mug"},
    LoraUse: {"lora": "teddy"},
    ControlUse: {"kind": "canny", "image": "ab"},
    StyleUse: {"image": "ab"},
    StartImage: {"image": "ab"},
    TrainSettings: {"dataset": "teddy", "name": "Teddy"},
}
RANGES = [
    (cls, name, field)
    for cls, fields in form.FORMS.items()
    for name, field in fields.items()
    if field.low is not None
    and not name.endswith(("start", "end"))  # those two depend on each other
    and name != "strength"  # of a start: above 0
]
RICH = GenerateSettings(
    prompt="a mug",
    negative_prompt="blur",
    width=512,
    seed=7,
    scheduler="euler",
    loras=(LoraUse(lora="teddy", weight=0.8), LoraUse(lora="lamp", weight=-0.5, start=0.2, end=0.9)),
    controls=(
        ControlUse(kind="openpose", image="ab", strength=0.7, end=0.6, detected=True),
        ControlUse(kind="depth", image="cd", start=0.3),
        ControlUse(kind="softedge", image="ab", strength=0),
    ),
    styles=(StyleUse(image="cd", weight=0.4, target="style", start=0.1),),
    start=StartImage(image="ef", mask="01", strength=0.8, only_masked=True),
    guidance_end=0.8,
)
NESTED = ("loras", "controls", "styles", "start")
PLAIN = [f.name for f in dataclasses.fields(GenerateSettings) if f.name not in NESTED]
NAMES = [
    *PLAIN,
    *(f"loras.{row}.{f.name}" for row in range(3) for f in dataclasses.fields(LoraUse)),
    *(f"controls.{row}.{f.name}" for row in range(4) for f in dataclasses.fields(ControlUse)),
    *(f"styles.0.{f.name}" for f in dataclasses.fields(StyleUse)),
    *(f"start.{f.name}" for f in dataclasses.fields(StartImage)),
]


@pytest.mark.parametrize("cls", [LoraUse, ControlUse, StyleUse, StartImage, TrainSettings])
def test_every_setting_can_be_asked_for(cls: type[Settings]) -> None:
    assert set(form.FORMS[cls]) == set(typing.get_type_hints(cls))


@pytest.mark.parametrize(("cls", "name", "field"), RANGES, ids=[f"{cls.__name__}.{name}" for cls, name, _ in RANGES])
def test_a_range_is_that_of_the_setting(cls: type[Settings], name: str, field: form.Field) -> None:
    assert field.low is not None
    assert field.high is not None
    for inside in (field.low, field.high):
        cls.from_dict(ENOUGH[cls] | {name: inside})
    for outside in (field.low - field.step, field.high + field.step):
        with pytest.raises(BadSettings):
            cls.from_dict(ENOUGH[cls] | {name: outside})


@pytest.mark.parametrize(
    ("cls", "name"), [(GenerateSettings, "scheduler"), (TrainSettings, "goal"), (StyleUse, "target")]
)
def test_choices_are_those_of_the_setting(cls: type[Settings], name: str) -> None:
    values = [value for _, value in form.FORMS[cls][name].choices]
    assert values == list(typing.get_args(typing.get_type_hints(cls)[name]))


@pytest.mark.parametrize(
    ("cls", "name", "component"),
    [
        (ControlUse, "strength", gr.Slider),
        (TrainSettings, "learning_rate", gr.Number),
        (TrainSettings, "sample_prompts", gr.Textbox),
        (GenerateSettings, "scheduler", gr.Dropdown),
        (ControlUse, "detected", gr.Checkbox),
    ],
)
def test_a_component_suits_its_setting(cls: type[Settings], name: str, component: type) -> None:
    assert type(form.build(cls, name)) is component


def test_defaults_are_the_settings_own() -> None:
    inputs = {name: form.build(GenerateSettings, name) for name in form.GENERATE}
    values = {name: component.value for name, component in inputs.items()} | {"prompt": "a mug"}
    assert form.parse(GenerateSettings, values) == GenerateSettings(prompt="a mug")


def test_there_and_back_again() -> None:
    assert form.parse(GenerateSettings, form.spread(RICH, NAMES)) == RICH


def test_rows_that_are_not_filled_in_are_left_out() -> None:
    plain = GenerateSettings(prompt="a mug")
    assert form.parse(GenerateSettings, form.spread(plain, NAMES)) == plain


def test_lists_are_typed_one_a_line() -> None:
    settings = form.parse(TrainSettings, ENOUGH[TrainSettings] | {"sample_prompts": "sks bear\n\n  sks bear, beach \n"})
    assert settings.sample_prompts == ("sks bear", "sks bear, beach")
    assert form.spread(settings, ["sample_prompts"]) == {"sample_prompts": "sks bear\nsks bear, beach"}


def test_an_empty_number_is_named() -> None:
    with pytest.raises(BadSettings, match="steps"):
        form.parse(GenerateSettings, {"prompt": "a mug", "steps": None})
