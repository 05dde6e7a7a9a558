"""The rows of layouts: filled, added, taken away, brought back, and what is said below each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.errors import BadImage, BadSettings
from engine.samples import SAMPLES_FOLDER
from engine.settings import ControlUse, GenerateSettings
from engine.studio import Studio
from engine.workspace import Workspace
from ui import form
from ui.header import build_header
from ui.page import Page
from ui.tabs.generate import LAYOUT_ROWS, GenerateTab

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


def rows(**images: str) -> dict[str, str]:
    """What the rows hold, as handlers get it: `row_2="..."` is the image of the third."""
    held = {f"image_{row}": images.get(f"row_{row}", "") for row in range(LAYOUT_ROWS)}
    return held | {f"kind_{row}": "canny" for row in range(LAYOUT_ROWS)}


def described(tab: GenerateTab, **asked: Any) -> str:
    usual: dict[str, Any] = {"base": "starter", "width": 512, "height": 512, "kind": "canny", "image": ""}
    return tab.describe_layout(1, **(usual | {"detected": False, "strength": 1.0} | asked))[tab.notes[1]]


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
    back = {names[component]: new for component, new in updates.items() if component in names}
    back |= {name: "" for name in back if name.endswith(".lora")}  # menus carry their choices too
    assert form.parse(GenerateSettings, back) == settings
    assert updates[tab.shown] == [0, 1, 2, 3]
    assert all(updates[control] for control in tab.controls)
    assert tab.fill(GenerateSettings(prompt="a mug"))[tab.shown] == [0]


def test_a_map_goes_to_the_row_of_its_kind_else_to_a_free_one_else_to_one_more(tab: GenerateTab) -> None:
    image = keep(tab, PERSON / "openpose" / "00.png")

    def row_of(kind: str, shown: list[int], **images: str) -> int:
        updates = tab.take_map(handed={"kind": kind, "image": image}, shown=shown, **rows(**images))
        [row] = [row for row in range(LAYOUT_ROWS) if updates.get(tab.inputs[f"controls.{row}.image"]) == image]
        assert row in updates[tab.shown]
        assert value(tab, updates, "kind", row) == kind
        assert value(tab, updates, "detected", row) is True
        return row

    assert row_of("openpose", [0]) == 0
    assert row_of("canny", [0, 2], row_2="x") == 2
    assert row_of("openpose", [0, 2], row_0="x") == 2
    assert row_of("openpose", [0], row_0="x") == 1
    with pytest.raises(BadSettings, match="4 layouts already"):
        row_of("openpose", [0, 1, 2, 3], row_0="x", row_1="x", row_2="x", row_3="x")


def test_a_row_taken_away_is_as_new_and_the_last_one_stays(tab: GenerateTab) -> None:
    updates = tab.remove_layout(1, shown=[0, 1, 2])
    assert updates[tab.shown] == [0, 2]
    assert [value(tab, updates, name, 1) for name in ("image", "strength", "end", "detected")] == ["", 1.0, 1.0, False]
    assert tab.remove_layout(0, shown=[0])[tab.shown] == [0]
    assert tab.show_another(shown=[0, 2])[tab.shown] == [0, 2, 1]


def test_a_ready_made_map_is_known_and_a_photo_is_not(tab: GenerateTab) -> None:
    updates = tab.take_control(1, file={"path": str(PERSON / "depth" / "00.png")}, image="", kind="canny")
    assert value(tab, updates, "kind", 1) == "depth"
    assert value(tab, updates, "detected", 1) is True
    assert "ready-made map: depth" in updates[tab.layout_notices[1]]
    updates = tab.take_control(1, file={"path": str(COFFEE)}, image="", kind="canny")
    assert value(tab, updates, "detected", 1) is False
    assert tab.inputs["controls.1.kind"] not in updates


def test_what_stands_in_its_way_is_said_below_the_row(tab: GenerateTab, tmp_path: Path) -> None:
    assert described(tab) == ""
    assert "no ControlNet for depth yet" in described(tab, kind="depth")
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
    updates = tab.take_composition(event, shown=[0, 2])
    assert value(tab, updates, "image", 2) == keep(tab, COFFEE)
    assert value(tab, updates, "detected", 2) is False
