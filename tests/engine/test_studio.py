"""What the facade says before any model is loaded: what a base cannot do, and what of a recipe is not here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from engine.errors import BadImage, BadRecipe, MissingModel, NotFound
from engine.recipe import Recipe, png_bytes
from engine.settings import ControlUse, GenerateSettings, LoraUse, StartImage, StyleUse
from engine.studio import Studio
from engine.workspace import Workspace

GONE = "0" * 64


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """Over an empty workspace, and a starter that follows edges and nothing else."""
    (tmp_path / "starter" / "controlnet-canny").mkdir(parents=True)
    monkeypatch.setenv("TRIPOD_STARTER", str(tmp_path / "starter"))
    return Studio(Workspace(tmp_path / "workspace"))


def add_lora(studio: Studio, file: Path, content: bytes, name: str) -> str:
    file.write_bytes(content)
    about = {"family": "sd15", "base": "starter", "trigger": "sks", "class_name": "", "rank": 2}
    return studio.workspace.add_lora(file, name=name, **about).id


def test_what_a_base_cannot_follow_has_a_reason(studio: Studio) -> None:
    assert studio.why_not("starter").control("canny") == ""
    assert studio.why_not("starter").control("openpose") == "Starter has no ControlNet for pose yet."
    assert studio.why_not("sd15").control("openpose") == ""


def test_what_cannot_be_made_is_refused_before_a_job_is(studio: Studio) -> None:
    image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
    pose = GenerateSettings(prompt="a mug", controls=(ControlUse(kind="openpose", image=image),))
    with pytest.raises(MissingModel, match="no ControlNet for pose yet"):
        studio.generate(pose)
    with pytest.raises(NotFound, match="no LoRA 'bear'"):
        studio.generate(GenerateSettings(prompt="a mug", loras=(LoraUse(lora="bear"),)))
    assert studio.jobs() == []


def test_a_start_that_cannot_be_used_is_refused_before_a_job_is(studio: Studio) -> None:
    image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
    small = studio.workspace.keep_image(Image.new("L", (32, 32), 255))
    for mask, problem in ((studio.empty_mask(image), "The mask is empty"), (small, "The mask is 32 × 32 px")):
        with pytest.raises(BadImage, match=problem):
            studio.generate(GenerateSettings(prompt="a mug", start=StartImage(image=image, mask=mask)))
    with pytest.raises(NotFound):
        studio.generate(GenerateSettings(prompt="a mug", start=StartImage(image=GONE)))
    assert studio.jobs() == []


def test_a_few_step_lora_is_known_by_its_file_too(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "renamed.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, file, {"ss_output_name": "Hyper-SD15-8steps-lora"})
    about = {"family": "sd15", "base": "starter", "trigger": "", "class_name": "", "rank": 2}
    lora = studio.workspace.add_lora(file, name="Fast", **about).id
    other = add_lora(studio, tmp_path / "lora", b"no safetensors", "bear")
    found = studio.few_steps([other, lora], "starter")
    assert found is not None
    assert (found.title, found.steps) == ("Hyper", 8)
    assert studio.few_steps([other], "starter") is None


class TestRestore:
    def png(self, studio: Studio, file: Path, settings: GenerateSettings) -> Path:
        hashes = {use.lora: studio.lora(use.lora).sha256 for use in settings.loras}
        recipe = Recipe(settings=settings, seed=settings.seed, base_hash=GONE, lora_hashes=hashes)
        file.write_bytes(png_bytes(Image.new("RGB", (8, 8)), recipe, {name: name for name in hashes}))
        return file

    def test_everything_comes_back(self, studio: Studio, tmp_path: Path) -> None:
        loras = [add_lora(studio, tmp_path / "lora", name.encode(), name) for name in ("bear", "mug")]
        image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
        settings = GenerateSettings(
            prompt="a mug",
            seed=7,
            loras=(LoraUse(lora=loras[0], weight=0.5), LoraUse(lora=loras[1], end=0.5)),
            controls=(ControlUse(kind="canny", image=image),),
            styles=(StyleUse(image=image),),
        )
        recipe, missing = studio.restore(self.png(studio, tmp_path / "a.png", settings))
        assert (recipe.settings, recipe.seed, missing) == (settings, 7, [])

    def test_what_is_gone_is_left_out_and_named(self, studio: Studio, tmp_path: Path) -> None:
        lora = add_lora(studio, tmp_path / "lora", b"first", "bear")
        image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
        settings = GenerateSettings(
            prompt="a mug",
            loras=(LoraUse(lora=lora),),
            controls=(ControlUse(kind="canny", image=image),),
            styles=(StyleUse(image=GONE),),
        )
        png = self.png(studio, tmp_path / "a.png", settings)
        studio.delete_lora(lora)
        add_lora(studio, tmp_path / "lora", b"trained again", "bear")
        recipe, missing = studio.restore(png)
        assert recipe.settings == settings.replace(loras=(), styles=())
        assert ["LoRA 'bear'" in missing[0], "1 of its 2 pictures" in missing[1]] == [True, True]

    def test_a_start_comes_back_with_its_mask_or_is_named(self, studio: Studio, tmp_path: Path) -> None:
        image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
        mask = studio.workspace.keep_image(Image.new("L", (64, 64), 255))
        settings = GenerateSettings(prompt="a mug", start=StartImage(image=image, mask=mask, strength=0.8))
        recipe, missing = studio.restore(self.png(studio, tmp_path / "a.png", settings))
        assert (recipe.settings, missing) == (settings, [])
        gone = settings.replace(start=StartImage(image=image, mask=GONE))
        recipe, missing = studio.restore(self.png(studio, tmp_path / "b.png", gone))
        assert recipe.settings == settings.replace(start=None)
        assert missing == ["The picture that it started from is not in this workspace."]

    def test_a_lora_is_found_under_its_new_name(self, studio: Studio, tmp_path: Path) -> None:
        lora = add_lora(studio, tmp_path / "lora", b"weights", "bear")
        settings = GenerateSettings(prompt="a mug", loras=(LoraUse(lora=lora),))
        png = self.png(studio, tmp_path / "a.png", settings)
        studio.delete_lora(lora)
        renamed = add_lora(studio, tmp_path / "lora", b"weights", "ted")
        recipe, missing = studio.restore(png)
        assert ([use.lora for use in recipe.settings.loras], missing) == ([renamed], [])

    def test_an_unknown_base_is_named(self, studio: Studio, tmp_path: Path) -> None:
        png = self.png(studio, tmp_path / "a.png", GenerateSettings(prompt="a mug", base="other"))
        with pytest.raises(BadRecipe, match=r"a\.png was made with the base 'other'"):
            studio.restore(png)


def test_a_mask_that_does_nothing_is_refused_before_a_job_is(studio: Studio) -> None:
    image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
    black = studio.style_mask_sheet("", 64, 64)
    use = StyleUse(image=image, mask=black)
    with pytest.raises(BadImage, match="black all over"):
        studio.generate(GenerateSettings(prompt="a mug", base="sd15", width=64, height=64, styles=(use,)))
    assert studio.jobs() == []


def test_a_reference_whose_mask_is_gone_does_not_come_back_without_it(studio: Studio, tmp_path: Path) -> None:
    image = studio.workspace.keep_image(Image.new("RGB", (64, 64)))
    styles = (StyleUse(image=image), StyleUse(image=image, mask=GONE))
    recipe = Recipe(settings=GenerateSettings(prompt="a mug", styles=styles), seed=0, base_hash="0")
    (tmp_path / "picture.png").write_bytes(png_bytes(Image.new("RGB", (64, 64)), recipe, {}))
    restored, missing = studio.restore(tmp_path / "picture.png")
    assert restored.settings.styles == styles[:1]
    assert "1 of its 2 pictures" in missing[0]


def test_parts_of_a_reference_need_a_base_that_can_take_them(studio: Studio) -> None:
    assert studio.why_not("sdxl").style("style", False) == studio.why_not("sd15").style("layout", True) == ""
    assert studio.why_not("starter").style("style", False) == "Starter cannot take only the style of a reference."
    assert "in a part of the picture only" in studio.why_not("flux_dev").style("all", True)
