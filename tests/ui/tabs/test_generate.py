"""The rows of layouts and looks: filled, added, taken away, brought back, and what is said below each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageOps

from engine import abilities
from engine.errors import BadImage, BadSettings
from engine.recipe import Recipe, png_bytes
from engine.samples import SAMPLES_FOLDER
from engine.scores import Score
from engine.settings import ControlUse, GenerateSettings, StyleUse
from engine.studio import Studio
from engine.workspace import Workspace
from ui import form
from ui.header import build_header
from ui.layout_rows import LayoutRows
from ui.page import Page
from ui.tabs.generate import GenerateTab, details, tensors_read

PERSON = SAMPLES_FOLDER / "subjects" / "person"
COFFEE = SAMPLES_FOLDER / "compositions" / "coffee.png"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Over an empty workspace, and a starter that follows edges and poses."""
    starter = tmp_path_factory.mktemp("starter")
    for kind in ("canny", "openpose"):
        (starter / f"controlnet-{kind}").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_STARTER", str(starter))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
        studio = Studio(Workspace(tmp_path_factory.mktemp("workspace")))
        with gr.Blocks() as app:
            base, tabs = build_header(studio, app), gr.Tabs()
            page = Page(studio, app, base, tabs)
            with tabs, gr.Tab("Generate") as container:
                made = GenerateTab(page, container)
        yield made


def keep(tab: GenerateTab, file: Path) -> str:
    return tab.studio.keep_image(file)


def value(tab: GenerateTab, updates: dict[Any, Any], name: str, row: int) -> Any:
    return updates[tab.inputs[f"controls.{row}.{name}"]]


def plain(update: Any) -> Any:
    """The value that an update sets, which may come with choices."""
    return update["value"] if isinstance(update, dict) else update


def rows(**images: str) -> dict[str, str]:
    """What the rows hold, as handlers get it: `row_2="..."` is the image of the third."""
    held = {f"image_{row}": images.get(f"row_{row}", "") for row in range(LayoutRows.most)}
    return held | {f"kind_{row}": "canny" for row in range(LayoutRows.most)}


def described(tab: GenerateTab, **asked: Any) -> str:
    usual: dict[str, Any] = {"base": "starter", "width": 512, "height": 512, "kind": "canny", "image": ""}
    usual |= {"detected": False, "strength": 1.0, "mode": "default"}
    return tab.layouts.describe(1, **(usual | asked))[tab.layouts.notes[1]]


def test_every_layout_of_a_picture_comes_back(tab: GenerateTab) -> None:
    pose, coffee = keep(tab, PERSON / "openpose" / "00.png"), keep(tab, COFFEE)
    settings = GenerateSettings(
        prompt="a mug",
        controls=(
            ControlUse(kind="openpose", image=pose, detected=True, strength=0.7, end=0.6),
            ControlUse(kind="depth", image=coffee, start=0.2),
            ControlUse(kind="canny", image=coffee, strength=0.4),
            ControlUse(kind="lines", image=coffee),
        ),
    )
    updates = tab.fill(settings)
    names = {component: name for name, component in tab.inputs.items()}
    back = {names[component]: plain(new) for component, new in updates.items() if component in names}
    back |= {name: "" for name in back if name.endswith(".lora")}  # menus carry their choices too
    assert form.parse(GenerateSettings, back) == settings
    assert updates[tab.layouts.shown] == [0, 1, 2, 3]
    assert all(updates[control] for control in tab.layouts.pictures)
    none = tab.fill(GenerateSettings(prompt="a mug"))
    assert none[tab.layouts.shown] == [0]
    assert value(tab, none, "kind", 3) == "canny"  # a row without a layout is as new


def test_a_map_goes_to_the_row_of_its_kind_else_to_a_free_one_else_to_one_more(tab: GenerateTab) -> None:
    image = keep(tab, PERSON / "openpose" / "00.png")

    def row_of(kind: str, shown: list[int], **images: str) -> int:
        updates = tab.layouts.take_map(handed={"kind": kind, "image": image}, shown=shown, **rows(**images))
        [row] = [row for row in range(LayoutRows.most) if updates.get(tab.inputs[f"controls.{row}.image"]) == image]
        assert row in updates[tab.layouts.shown]
        assert value(tab, updates, "kind", row) == kind
        assert value(tab, updates, "detected", row) is True
        return row

    assert row_of("openpose", [0]) == 0
    assert row_of("canny", [0, 2], row_2="x") == 2
    assert row_of("openpose", [0, 2], row_0="x") == 2
    assert row_of("openpose", [0], row_0="x") == 1
    with pytest.raises(BadSettings, match="4 layouts already"):
        row_of("openpose", [0, 1, 2, 3], row_0="x", row_1="x", row_2="x", row_3="x")


def test_a_base_whose_cfg_does_not_act_on_layouts_says_so(tab: GenerateTab) -> None:
    assert "CFG of Qwen-Image does not act on layouts." in described(tab, base="qwen_image", mode="layout")
    assert described(tab, base="qwen_image", mode="balanced") == described(tab, base="starter", mode="layout") == ""


def test_a_row_taken_away_is_as_new_and_the_last_one_stays(tab: GenerateTab) -> None:
    updates = tab.layouts.remove(1, shown=[0, 1, 2])
    assert updates[tab.layouts.shown] == [0, 2]
    assert [value(tab, updates, name, 1) for name in ("image", "strength", "end", "detected")] == ["", 1.0, 1.0, False]
    assert tab.layouts.remove(0, shown=[0])[tab.layouts.shown] == [0]
    assert tab.layouts.show_another(shown=[0, 2])[tab.layouts.shown] == [0, 2, 1]


def test_a_ready_made_map_is_known_and_a_photo_is_not(tab: GenerateTab) -> None:
    updates = tab.layouts.take_upload(1, file={"path": str(PERSON / "depth" / "00.png")}, image="", kind="canny")
    assert value(tab, updates, "kind", 1) == "depth"
    assert value(tab, updates, "detected", 1) is True
    assert "ready-made map: depth" in updates[tab.layouts.notices[1]]
    updates = tab.layouts.take_upload(1, file={"path": str(COFFEE)}, image="", kind="canny")
    assert value(tab, updates, "detected", 1) is False
    assert tab.inputs["controls.1.kind"] not in updates


def test_what_stands_in_its_way_is_said_below_the_row(tab: GenerateTab, tmp_path: Path) -> None:
    assert described(tab) == ""
    assert "no ControlNet for straight lines yet" in described(tab, kind="lines")
    assert "At strength 0 this layout does nothing." in described(tab, strength=0)
    pose = keep(tab, PERSON / "openpose" / "00.png")
    assert described(tab, kind="openpose", image=pose, detected=True) == ""
    assert "cut off" in described(tab, kind="openpose", image=pose, detected=True, width=256)
    with pytest.raises(BadImage, match="a map of pose, not of edges"):
        described(tab, image=pose, detected=True)
    lines = np.zeros((128, 128), np.uint8)
    lines[::16] = 255
    ImageOps.invert(Image.fromarray(lines)).save(tmp_path / "inverted.png")
    assert "dark on white" in described(tab, image=keep(tab, tmp_path / "inverted.png"), detected=True)


def test_a_map_of_another_kind_is_refused_before_anything_is_loaded(tab: GenerateTab) -> None:
    use = ControlUse(kind="canny", image=keep(tab, PERSON / "depth" / "00.png"), detected=True)
    with pytest.raises(BadImage, match="a map of depth, not of edges"):
        tab.studio.generate(GenerateSettings(prompt="a mug", controls=(use,)))


def test_a_sample_goes_to_the_row_opened_last(tab: GenerateTab) -> None:
    event: Any = SimpleNamespace(id="coffee")
    updates = tab.layouts.take_sample(event, shown=[0, 2])
    assert value(tab, updates, "image", 2) == keep(tab, COFFEE)
    assert value(tab, updates, "detected", 2) is False


def test_a_map_that_was_edited_for_a_row_comes_back_to_it(tab: GenerateTab) -> None:
    image = keep(tab, PERSON / "openpose" / "00.png")
    handed = tab.layouts.edit(2, kind="openpose", image=image, detected=True)[tab.page.edit_map]
    assert {name: handed[name] for name in ("row", "kind", "image", "detected")} == {
        "row": 2,
        "kind": "openpose",
        "image": image,
        "detected": True,
    }
    back = {"kind": "openpose", "image": image, "row": 2}
    updates = tab.layouts.take_map(handed=back, shown=[0, 2], **rows(row_0="x", row_2="y"))
    assert value(tab, updates, "image", 2) == image
    updates = tab.layouts.take_map(handed=back, shown=[0], **rows())  # the row was taken away meanwhile
    assert value(tab, updates, "image", 0) == image


def test_several_looks_come_back_with_their_masks(tab: GenerateTab, tmp_path: Path) -> None:
    coffee = keep(tab, COFFEE)
    mask = tab.studio.keep_style_mask(png_of(np.eye(96, dtype=np.uint8) * 255, tmp_path))
    styles = (StyleUse(image=coffee, weight=0.4, target="style", end=0.5), StyleUse(image=coffee, mask=mask))
    settings = GenerateSettings(prompt="a mug", styles=styles)
    updates = tab.fill(settings)
    names = {component: name for name, component in tab.inputs.items()}
    back = {names[component]: plain(new) for component, new in updates.items() if component in names}
    back |= {name: "" for name in back if name.endswith(".lora")}
    assert form.parse(GenerateSettings, back) == settings
    looks = tab.looks
    assert updates[looks.shown] == [0, 1]
    assert [bool(updates[shown]) for shown in looks.masks] == [False, True, False, False]
    removed = looks.remove(1, shown=[0, 1])
    assert removed[looks.masks[1]] is None
    assert removed[tab.inputs["styles.1.mask"]] == ""


def test_what_stands_in_the_way_of_a_look_is_said_below_it(tab: GenerateTab, tmp_path: Path) -> None:
    coffee, looks = keep(tab, COFFEE), tab.looks

    def said(**asked: Any) -> str:
        usual: dict[str, Any] = {"base": "sdxl", "width": 96, "height": 96, "image": coffee, "mask": ""}
        return looks.describe(0, **(usual | {"target": "all", "weight": 0.6} | asked))[looks.notes[0]]

    assert said() == said(target="style") == said(target="layout") == ""
    assert "Starter cannot take only the style of a reference." in said(base="starter", target="style")
    assert "At weight 0 this look does nothing." in said(weight=0)
    wide = tab.studio.keep_style_mask(png_of(np.full((96, 192), 255, np.uint8), tmp_path))
    assert said(mask=wide, width=192) == ""
    assert "The mask is 192 × 96 px and the picture 96 × 96 px: 50% of it, at the border, is cut off." in said(
        mask=wide
    )


def test_the_square_that_is_looked_at_is_shown_where_it_is_not_all(tab: GenerateTab, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"base": "sdxl", "width": 96, "height": 96, "target": "all", "weight": 0.6, "mask": ""}
    looks = tab.looks
    assert "Only the square in the middle" in looks.describe(0, image=keep(tab, COFFEE), **usual)[looks.squares[0]]
    Image.new("RGB", (96, 96), "red").save(tmp_path / "square.png")
    assert looks.describe(0, image=keep(tab, tmp_path / "square.png"), **usual)[looks.squares[0]] == ""


def test_a_reference_or_mask_that_is_too_small_leaves_what_was_there(tab: GenerateTab, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "tiny.png")
    file, looks = {"path": str(tmp_path / "tiny.png")}, tab.looks
    for updates in (looks.take_upload(0, file=file, image=""), looks.take_mask(0, file=file, mask="")):
        assert "tiny.png is too small or too narrow: 3 × 3 px." in updates[looks.notices[0]]
        assert not {tab.inputs["styles.0.image"], tab.inputs["styles.0.mask"]} & set(updates)


def png_of(pixels: np.ndarray, folder: Path) -> bytes:
    Image.fromarray(pixels).save(folder / "drawn.png")
    return (folder / "drawn.png").read_bytes()


def test_the_facts_of_a_picture_name_its_layouts_as_people_do(tab: GenerateTab) -> None:
    use = ControlUse(kind="canny", image=keep(tab, COFFEE), strength=0.8)
    recipe = Recipe(settings=GenerateSettings(prompt="a mug", controls=(use,)), seed=1, base_hash="0")
    assert "Edges 0.8" in details(recipe, tab.layouts.titles)


def test_several_pictures_stand_best_first_with_the_reasons(tab: GenerateTab) -> None:
    made = []
    for value in (0.4, 0.8, 0.6):
        settings = GenerateSettings(prompt="a mug")
        recipe = Recipe(settings=settings, seed=0, base_hash="0" * 64)
        picture = Image.new("RGB", (64, 64), (int(255 * value), 0, 0))
        made.append(tab.studio.workspace.add_picture(png_bytes(picture, recipe, {}), recipe.to_dict()).id)
        score = Score(name="prompt", title="Prompt", value=value, raw=value, method="as seen")
        tab.studio.workspace.keep_scores(made[-1], [score.to_dict()])
    ranked, plain = (tab.arrange(made=made, best_first=best_first) for best_first in (True, False))
    assert [ranked[tab.batch].index(made[number]) for number in (1, 2, 0)] == sorted(
        ranked[tab.batch].index(id_) for id_ in made
    )
    assert [plain[tab.batch].index(id_) for id_ in made] == sorted(plain[tab.batch].index(id_) for id_ in made)
    assert ranked[tab.reasons].count("<li>") == 3
    assert "Behind the best in prompt 40% against 80%." in ranked[tab.reasons]
    assert plain[tab.reasons] == ""
    assert tab.arrange(made=made[:1], best_first=True)[tab.batch] == ""
    assert "0.80" in tab._view(made[1])[tab.details]


def test_what_makes_it_faster_is_greyed_with_the_reason_where_it_cannot_be(
    tab: GenerateTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abilities, "find_spec", lambda name: None)
    monkeypatch.setattr(abilities, "which", lambda name: name == "g++" or None)

    def described(name: str, base: str, **asked: Any) -> Any:
        values: dict[str, Any] = {"base": base, "step_cache": "none", "attention": "auto"} | asked
        updates = tab.speed.describe(**values)
        part = updates[tab.inputs[name]]
        return part["interactive"], part.get("value"), part["info"], updates[tab.speed.notes]

    interactive, kernel, info, notes = described("attention", "starter", attention="sage")
    assert (interactive, kernel, notes) == (False, "auto", "")
    assert info.endswith("leaves attention to PyTorch.")
    assert described("attention", "flux_dev")[0]
    notes = described("attention", "flux_dev", attention="sage")[3]
    assert "SageAttention needs the package sageattention, which is not installed." in notes
    assert described("compile", "flux_dev")[0]
    assert described("compile", "starter", step_cache="first_block")[0]  # which it has not
    cached = "Compiled blocks do not go with a step cache."
    assert described("compile", "flux_dev", step_cache="first_block")[:3] == (False, False, cached)
    assert "no blocks that diffusers can compile" in described("compile", "sd35_medium")[2]
    monkeypatch.setattr(abilities, "which", lambda name: None)
    assert "C++ compiler" in described("compile", "flux_dev")[2]


def test_what_was_asked_last_is_set_where_it_differs_from_the_page_as_built(tab: GenerateTab) -> None:
    pose = ControlUse(kind="openpose", image=keep(tab, COFFEE), strength=0.7)
    settings = GenerateSettings(prompt="a mug", steps=9, controls=(pose,))
    updates = tab.refill(last=settings.to_dict())
    shown = {name: plain(updates.get(component, component.value)) for name, component in tab.inputs.items()}
    shown |= {name: "" for name in shown if name.endswith(".lora")}  # menus carry their choices too
    assert form.parse(GenerateSettings, shown) == settings
    assert tab.inputs["negative_prompt"] not in updates


def test_it_is_said_what_of_a_lora_file_acts() -> None:
    assert "All 24 tensors of the file fit." in tensors_read(24, ())
    some = tensors_read(24, ("emb.0", "emb.1"))
    assert "24 of 26 tensors of the file fit." in some
    assert "does nothing: emb.0, emb.1." in some
    assert "does nothing: a, b, c and 2 more." in tensors_read(24, tuple("abcde"))


def test_the_schedulers_to_choose_from_are_those_of_the_base_brought_back(tab: GenerateTab) -> None:
    settings = GenerateSettings(prompt="a mug", base="qwen_image", scheduler="shift_3")
    update = tab.fill(settings)[tab.inputs["scheduler"]]
    assert update["value"] == "shift_3"
    assert [name for _, name in update["choices"]] == ["default", "shift_3"]
