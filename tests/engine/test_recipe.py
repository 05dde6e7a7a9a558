import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from engine.errors import BadRecipe
from engine.recipe import Recipe, a1111_text, png_bytes, read_png
from engine.settings import ControlUse, GenerateSettings, LoraUse, StartImage, StyleUse

SETTINGS = GenerateSettings(
    prompt="a photo of zxq teddy bear, on a table",
    negative_prompt="blurry",
    width=512,
    height=256,
    steps=30,
    guidance_scale=7.5,
    seed=40,
    count=4,
    scheduler="dpmpp_2m_karras",
    loras=(LoraUse(lora="my-bear", weight=0.8), LoraUse(lora="other", weight=1.0, end=0.5)),
    controls=(
        ControlUse(kind="canny", image="1" * 64, strength=0.9, end=0.75),
        ControlUse(kind="openpose", image="2" * 64, detected=True),
    ),
    styles=(StyleUse(image="3" * 64, weight=0.6, target="style", start=0.1),),
    guidance_end=0.9,
)
RECIPE = Recipe(
    settings=SETTINGS,
    seed=42,
    base_hash="0123456789abcdef" * 4,
    lora_hashes={"my-bear": "a" * 64, "other": "b1c2d3e4f5a6" + "0" * 52},
    versions={"torch": "2.12.1", "diffusers": "0.42.1"},
    device="CPU, 2 cores",
    duration_s=2.5,
)
NAMES = {"my-bear": "My bear: v2", "other": "other_lora-1.0"}


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8))


def save(path: Path, **chunks: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text)
    noise().save(path, pnginfo=info)
    return path


class TestA1111Text:
    def test_whole(self) -> None:
        assert a1111_text(RECIPE, NAMES) == (
            "a photo of zxq teddy bear, on a table <lora:My_bear_v2:0.8> <lora:other_lora-1.0:1>\n"
            "Negative prompt: blurry\n"
            "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 42, Size: 512x256, "
            "Model hash: 0123456789, Model: starter, "
            'Lora hashes: "My_bear_v2: aaaaaaaaaaaa, other_lora-1.0: b1c2d3e4f5a6", '
            'ControlNet 0: "Module: canny, Model: controlnet-canny, Weight: 0.9, Resize Mode: Crop and Resize, '
            "Processor Res: 256, Guidance Start: 0.0, Guidance End: 0.75, Pixel Perfect: True, "
            'Control Mode: Balanced", '
            'ControlNet 1: "Module: none, Model: controlnet-openpose, Weight: 1.0, Resize Mode: Crop and Resize, '
            'Guidance Start: 0.0, Guidance End: 1.0, Pixel Perfect: True, Control Mode: Balanced", '
            'ControlNet 2: "Module: ip-adapter-auto, Model: ip-adapter, Weight: 0.6, Resize Mode: Crop and Resize, '
            'Guidance Start: 0.1, Guidance End: 1.0, Pixel Perfect: True, Control Mode: Balanced", '
            "Version: Tripod"
        )

    def test_a_layout_that_counts_more(self) -> None:
        use = ControlUse(kind="depth", image="0" * 64, mode="layout")
        recipe = Recipe(settings=GenerateSettings(prompt="a mug", controls=(use,)), seed=0, base_hash="0" * 64)
        assert "Pixel Perfect: True, Control Mode: ControlNet is more important" in a1111_text(recipe, {})

    def test_plain(self) -> None:
        recipe = Recipe(settings=GenerateSettings(prompt="a mug"), seed=0, base_hash="0" * 64)
        assert a1111_text(recipe, {}) == (
            "a mug\n"
            "Steps: 20, Sampler: Default, Schedule type: Automatic, CFG scale: 2.5, Seed: 0, Size: 256x256, "
            "Model hash: 0000000000, Model: starter, Version: Tripod"
        )

    @pytest.mark.parametrize(("mask", "more"), [("", ""), ("4" * 64, ", Mask blur: 4")])
    def test_a_start_picture(self, mask: str, more: str) -> None:
        start = StartImage(image="3" * 64, strength=0.75, mask=mask)
        recipe = Recipe(settings=GenerateSettings(prompt="a mug", start=start), seed=0, base_hash="0" * 64)
        assert f", Model: starter, Denoising strength: 0.75{more}, Version: Tripod" in a1111_text(recipe, {})

    @pytest.mark.parametrize("base", ["a, b", "a:b", "a\nb"])
    def test_values_with_separators_are_quoted_as_json(self, base: str) -> None:
        recipe = RECIPE.replace(settings=SETTINGS.replace(base=base))
        assert f", Model: {json.dumps(base)}, " in a1111_text(recipe, NAMES)


class TestPng:
    def test_everything_comes_back_but_how_long_it_took(self, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        file.write_bytes(png_bytes(noise(), RECIPE, NAMES))
        assert read_png(file) == RECIPE.replace(duration_s=0.0)
        with Image.open(file) as image:
            assert image.tobytes() == noise().tobytes()
            assert image.info["parameters"] == a1111_text(RECIPE, NAMES)

    def test_same_picture_and_recipe_same_bytes(self) -> None:
        first = png_bytes(noise(), RECIPE, NAMES)
        hashes = dict(reversed(RECIPE.lora_hashes.items()))
        assert png_bytes(noise(), RECIPE.replace(duration_s=9.0, lora_hashes=hashes), NAMES) == first
        assert png_bytes(noise(), RECIPE.replace(seed=43), NAMES) != first

    @pytest.mark.parametrize(
        "prompt", ["ein Bär, 熊 🧸", 'with "quotes" \\ and: commas,', "two\nlines", "Steps: 3, a: b"]
    )
    def test_any_prompt(self, tmp_path: Path, prompt: str) -> None:
        recipe = RECIPE.replace(settings=SETTINGS.replace(prompt=prompt), duration_s=0.0)
        file = tmp_path / "a.png"
        file.write_bytes(png_bytes(noise(), recipe, NAMES))
        assert read_png(file) == recipe


class TestFromOthers:
    TEXT = (
        "portrait of a cat, <lora:detail:0.7> (sharp:1.2),\n"
        "sitting\n"
        "Negative prompt: blurry, dog\n"
        "grain\n"
        "Steps: 35, Sampler: Euler a, Schedule type: Automatic, CFG scale: 6.5, Seed: 4294967295, Size: 832x1216, "
        'Model hash: 06f96f89f6, Model: "some, model", Lora hashes: "detail: bd081f6e5b13", Version: v1.10.1'
    )

    def test_what_has_the_same_meaning_is_read(self, tmp_path: Path) -> None:
        recipe = read_png(save(tmp_path / "a.png", parameters=self.TEXT))
        assert recipe.settings == GenerateSettings(
            prompt="portrait of a cat, (sharp:1.2),\nsitting",
            negative_prompt="blurry, dog\ngrain",
            steps=35,
            guidance_scale=6.5,
            seed=2**32 - 1,
            width=832,
            height=1216,
        )
        assert recipe.seed == 2**32 - 1

    def test_our_own_text_is_read_too(self, tmp_path: Path) -> None:
        settings = read_png(save(tmp_path / "a.png", parameters=a1111_text(RECIPE, NAMES))).settings
        kept = ("prompt", "negative_prompt", "steps", "guidance_scale", "width", "height")
        assert [getattr(settings, name) for name in kept] == [getattr(SETTINGS, name) for name in kept]
        assert settings.seed == 42

    def test_without_negative_prompt(self, tmp_path: Path) -> None:
        text = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512"
        assert read_png(save(tmp_path / "a.png", parameters=text)).settings.negative_prompt == ""

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ("Steps: 900", r"Steps is 900\. Choose a value from 1 to 150\."),
            ("CFG scale: 0.5", r"Guidance scale is 0\.5\."),
            ("CFG scale: nan", r"Guidance scale is nan\."),
            ("Seed: -1", r"Seed is -1\."),
            ("Size: 8000x512", r"Width is 8000\."),
            ("Size: 513x512", r"The width is 513 px\. Use a multiple of 8, such as 512\."),
            ("Size: 512", "cannot be read"),
            ("Steps: many", "cannot be read"),
        ],
    )
    def test_values_that_do_not_hold_here(self, tmp_path: Path, wrong: str, sentence: str) -> None:
        values = {"Steps": "20", "CFG scale": "7", "Seed": "1", "Size": "512x512"}
        key, value = wrong.split(": ")
        line = ", ".join(f"{k}: {v}" for k, v in (values | {key: value}).items())
        with pytest.raises(BadRecipe, match=sentence):
            read_png(save(tmp_path / "a.png", parameters=f"a cat\n{line}"))

    @pytest.mark.parametrize("text", ["", "just a prompt", "x" * 100_000, 'ab:"' * 30_000, " " * 100_000 + "x"])
    def test_text_that_is_no_recipe_is_refused_quickly(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(BadRecipe):
            read_png(save(tmp_path / "a.png", parameters=text))


class TestRefused:
    def test_no_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(BadRecipe, match=r"plain\.png carries no recipe"):
            read_png(save(tmp_path / "plain.png"))
        noise().save(tmp_path / "photo.jpg")
        with pytest.raises(BadRecipe, match=r"photo\.jpg carries no recipe"):
            read_png(tmp_path / "photo.jpg")

    def test_no_picture(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("Steps: 20, Seed: 1")
        with pytest.raises(BadRecipe, match=r"notes\.txt is not a picture"):
            read_png(tmp_path / "notes.txt")

    @pytest.mark.parametrize("length", [0, 10, 40, 200])
    def test_truncated(self, tmp_path: Path, length: int) -> None:
        file = tmp_path / "cut.png"
        file.write_bytes(png_bytes(noise(), RECIPE, NAMES)[:length])
        with pytest.raises(BadRecipe):
            read_png(file)

    @pytest.mark.parametrize(
        "change",
        [
            {"steps": 10**9},
            {"prompt": ["a"]},
            {"width": "512"},
            {"guidance_scale": float("inf")},
            {"seed": True},
            {"scheduler": "__import__('os')"},
            {"loras": [{"lora": "a", "path": "/etc/passwd"}]},
            {"controls": "all"},
            {"styles": [7]},
            {"callback": "x"},
        ],
    )
    def test_every_value_is_checked(self, tmp_path: Path, change: dict) -> None:
        own = RECIPE.to_dict()
        own["settings"] |= change
        with pytest.raises(BadRecipe, match="does not hold here"):
            read_png(save(tmp_path / "a.png", tripod=json.dumps(own)))

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "{}", "[" * 100_000, '{"settings": 3}'])
    def test_text_that_is_no_recipe(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(BadRecipe):
            read_png(save(tmp_path / "a.png", tripod=text))
