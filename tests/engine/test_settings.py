import dataclasses
import json
import math
from typing import Any

import pytest

from engine.errors import BadSettings
from engine.settings import (
    CaptionSettings,
    ControlUse,
    CropBox,
    GenerateSettings,
    LoraUse,
    Settings,
    StyleUse,
    TrainSettings,
)

HASH = "0" * 64
FULL = GenerateSettings(
    prompt="a mug",
    negative_prompt="blurry",
    width=512,
    guidance_scale=7.0,
    scheduler="euler_a",
    loras=(LoraUse(lora="my-bear", weight=-0.5, end=0.5),),
    controls=(ControlUse(kind="canny", image=HASH, detected=True),),
    styles=(StyleUse(image=HASH, target="style", start=0.2),),
)
ALL = [
    FULL,
    GenerateSettings(prompt="a mug"),
    TrainSettings(dataset="bear", name="My bear", sample_prompts=("a bear", "a bear at night")),
    CaptionSettings(dataset="bear", photos=("p1",)),
    CropBox(left_px=0, top_px=3, side_px=64),
]


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: type(settings).__name__)
class TestJson:
    def test_comes_back_equal(self, settings: Settings) -> None:
        assert type(settings).from_dict(json.loads(json.dumps(settings.to_dict()))) == settings

    def test_unknown_keys_are_refused(self, settings: Settings) -> None:
        with pytest.raises(BadSettings, match="'colour'"):
            type(settings).from_dict(settings.to_dict() | {"colour": "red"})

    def test_required_keys_are_named(self, settings: Settings) -> None:
        for f in dataclasses.fields(settings):  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                values = settings.to_dict()
                del values[f.name]
                with pytest.raises(BadSettings, match=f"{f.name!r} is missing"):
                    type(settings).from_dict(values)

    def test_frozen(self, settings: Settings) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, dataclasses.fields(settings)[0].name, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", 3),
        ("prompt", None),
        ("width", "256"),
        ("width", 256.5),
        ("width", True),
        ("guidance_scale", "4"),
        ("guidance_scale", True),
        ("scheduler", "dpm"),
        ("scheduler", []),
        ("loras", {}),
        ("loras", ["my-bear"]),
        ("loras", [{"weight": 1.0}]),
        ("loras", [{"lora": "a", "weight": "strong"}]),
        ("controls", [{"kind": "sketch", "image": HASH}]),
        ("controls", [{"kind": "canny", "image": HASH, "detected": 1}]),
        ("styles", "all"),
    ],
)
def test_values_of_the_wrong_type_are_refused(key: str, value: Any) -> None:
    with pytest.raises(BadSettings):
        GenerateSettings.from_dict({"prompt": "a mug", key: value})


@pytest.mark.parametrize("values", [[], "x", None, 3, ["prompt"]])
def test_something_else_than_names_with_values_is_refused(values: Any) -> None:
    with pytest.raises(BadSettings):
        GenerateSettings.from_dict(values)


def test_whole_numbers_pass_between_int_and_float() -> None:
    settings = GenerateSettings.from_dict({"prompt": "a mug", "width": 512.0, "guidance_scale": 7})
    assert (settings.width, settings.guidance_scale) == (512, 7.0)
    assert isinstance(settings.width, int)
    assert isinstance(settings.guidance_scale, float)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": ""},
        {"prompt": " \n\t"},
        {"prompt": "x" * 2001},
        {"negative_prompt": "x" * 2001},
        {"width": 56},
        {"width": 2056},
        {"height": 250},
        {"steps": 0},
        {"steps": 151},
        {"guidance_scale": 0.9},
        {"guidance_scale": 30.5},
        {"guidance_scale": math.nan},
        {"guidance_scale": math.inf},
        {"seed": -1},
        {"seed": 2**32},
        {"count": 0},
        {"count": 17},
        {"loras": tuple(LoraUse(lora=f"lora-{i}") for i in range(9))},
        {"loras": (LoraUse(lora="a"), LoraUse(lora="a", weight=0.5))},
        {"controls": (ControlUse(kind="canny", image=HASH),) * 5},
        {"styles": (StyleUse(image=HASH),) * 5},
    ],
)
def test_pictures_that_cannot_be_made_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadSettings):
        FULL.replace(**change)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (LoraUse, {"lora": "a", "weight": 2.1}),
        (LoraUse, {"lora": "a", "weight": math.nan}),
        (LoraUse, {"lora": "a", "start": 0.5, "end": 0.5}),
        (LoraUse, {"lora": "a", "start": -0.1}),
        (ControlUse, {"kind": "canny", "image": HASH, "strength": -0.1}),
        (ControlUse, {"kind": "canny", "image": HASH, "end": 1.1}),
        (StyleUse, {"image": HASH, "weight": 1.6}),
        (StyleUse, {"image": HASH, "start": 0.9, "end": 0.1}),
        (CropBox, {"left_px": -1, "top_px": 0, "side_px": 64}),
        (CropBox, {"left_px": 0, "top_px": 0, "side_px": 15}),
        (CaptionSettings, {"dataset": "a", "trigger": "x" * 41}),
        (CaptionSettings, {"dataset": "a", "class_name": "x" * 61}),
        (TrainSettings, {"dataset": "a", "name": "  "}),
        (TrainSettings, {"dataset": "a", "name": "x" * 61}),
        (TrainSettings, {"dataset": "a", "name": "a", "trigger": ""}),
        (TrainSettings, {"dataset": "a", "name": "a", "rank": 0}),
        (TrainSettings, {"dataset": "a", "name": "a", "rank": 257}),
        (TrainSettings, {"dataset": "a", "name": "a", "alpha": 0.0}),
        (TrainSettings, {"dataset": "a", "name": "a", "learning_rate": 0.0}),
        (TrainSettings, {"dataset": "a", "name": "a", "steps": 0}),
        (TrainSettings, {"dataset": "a", "name": "a", "batch_size": 65}),
        (TrainSettings, {"dataset": "a", "name": "a", "resolution": 100}),
        (TrainSettings, {"dataset": "a", "name": "a", "caption_dropout": 1.1}),
        (TrainSettings, {"dataset": "a", "name": "a", "min_snr_gamma": -1.0}),
        (TrainSettings, {"dataset": "a", "name": "a", "held_out_photos": 11}),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Settings], values: dict[str, Any]) -> None:
    with pytest.raises(BadSettings):
        kind(**values)


def test_the_sentence_names_the_value_and_the_remedy() -> None:
    with pytest.raises(BadSettings) as caught:
        GenerateSettings(prompt="a mug", width=250)
    assert (caught.value.problem, caught.value.remedy) == ("The width is 250 px.", "Use a multiple of 8, such as 248.")
    with pytest.raises(BadSettings, match=r"^Steps is 500\. Choose a value from 1 to 150\.$"):
        GenerateSettings(prompt="a mug", steps=500)


def test_a_huge_wrong_value_makes_no_huge_sentence() -> None:
    with pytest.raises(BadSettings) as caught:
        GenerateSettings.from_dict({"prompt": ["x"] * 10**5})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"controls": [{"kind": "canny", "image": HASH, "start": 0.8, "end": 0.2}]}, "Layout: it starts at 0.8"),
        ({"styles": [{"image": HASH, "weight": 9.0}]}, "Style reference: weight is 9"),
        ({"loras": [{"lora": "bear", "start": 0.5, "end": 0.5}]}, "LoRA 'bear': it starts at 0.5"),
        ({"loras": [{"lora": "bear"}, {"lora": "mug", "weight": None}]}, "LoRA 'mug': the setting 'weight' is empty"),
    ],
)
def test_an_error_in_a_row_names_the_row(rows: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadSettings) as caught:
        GenerateSettings.from_dict({"prompt": "a mug", **rows})
    assert str(caught.value).startswith(sentence)
