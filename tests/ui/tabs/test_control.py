"""The menu of detectors, what the cards say of them, and maps that are edited by hand."""

import io
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from engine.controls import KINDS, networks, openpose
from engine.controls.skeletons import as_values, standing
from engine.errors import BadImage
from engine.samples import SAMPLES_FOLDER
from engine.studio import Studio
from engine.workspace import Workspace
from ui.header import build_header
from ui.page import Page
from ui.tabs.control import ControlTab, detector_menu, note

PERSON = SAMPLES_FOLDER / "subjects" / "person"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
        studio = Studio(Workspace(tmp_path_factory.mktemp("workspace")))
        with gr.Blocks() as app:
            base, tabs = build_header(studio, app), gr.Tabs()
            page = Page(studio, app, base, tabs)
            with tabs, gr.Tab("Layout") as container:
                made = ControlTab(page, container)
        yield made


def asked(tab: ControlTab) -> dict[str, Any]:
    """What handlers are told besides: the detector, and every slider at its default."""
    return {"detector": "canny", **{name: slider.value for name, slider in tab.sliders.items()}}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_one_detector_leaves_nothing_to_choose() -> None:
    menu = detector_menu(KINDS["canny"])
    assert (menu["value"], menu["visible"]) == ("canny", False)
    assert "Hub" not in note(KINDS["canny"])


def test_what_must_be_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    menu = detector_menu(KINDS["depth"])
    assert menu["visible"]
    assert all("from the Hub" in title for title, _ in menu["choices"])
    assert "fetched from the Hub" in note(KINDS["depth"])


def test_the_embedded_one_comes_first_with_its_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "config.json").touch()
    menu = detector_menu(KINDS["normal"])
    assert menu["choices"][0] == ("Starter (starter quality)", "starter")
    assert menu["value"] == "starter"
    assert "Hub" not in note(KINDS["normal"])


def test_a_map_of_a_row_is_edited_at_once_and_given_back_to_it(tab: ControlTab) -> None:
    image = tab.studio.keep_image(PERSON / "openpose" / "00.png")
    handed = {"row": 2, "kind": "openpose", "image": image, "detected": True}
    updates = tab.take_row(handed=handed, base="sd15", kind="canny", picture="x", moved={}, **asked(tab))
    assert (updates[tab.goal], updates[tab.picture], updates[tab.wanted]) == (2, "", False)
    assert updates[tab.kind] == "openpose"
    assert "data-scene" in updates[tab.editor.pose]
    given = tab.use_it(found=updates[tab.map], goal=2)[tab.page.new_map]
    assert {name: given[name] for name in ("row", "kind", "image")} == {"row": 2, "kind": "openpose", "image": image}
    assert "row" not in tab.use_it(found=updates[tab.map], goal=None)[tab.page.new_map]


def test_a_photo_of_a_row_gets_its_map_first(tab: ControlTab) -> None:
    photo = tab.studio.keep_image(SAMPLES_FOLDER / "compositions" / "coffee.png")
    handed = {"row": 0, "kind": "canny", "image": photo, "detected": False}
    updates = tab.take_row(handed=handed, base="sd15", kind="canny", picture="", moved={}, **asked(tab))
    assert (updates[tab.picture], updates[tab.wanted]) == (photo, True)
    job = tab.studio.job(updates[tab.watch.token])
    job.wait(120)
    opened = tab.follow(job, picture=photo, wanted=True)
    assert opened[tab.wanted] is False
    assert "<canvas" in opened[tab.editor.brush]
    assert "<canvas" not in tab.follow(job, picture=photo, wanted=False)[tab.editor.brush]


def test_an_empty_sheet_has_the_size_of_the_picture_else_of_the_base(tab: ControlTab) -> None:
    photo = tab.studio.keep_image(SAMPLES_FOLDER / "compositions" / "coffee.png")
    over = tab.draw_new(kind="scribble", base="sd15", picture=photo)
    assert not over[tab.watch.box].visible  # what a detector said of the picture has nothing to do with the drawing
    assert over[tab.editor.edited]["size"] == tab.studio.image_size(photo)
    assert tab.draw_new(kind="segmentation", base="sd15", picture="")[tab.editor.edited]["size"] == (512, 512)
    assert "data-scene" in tab.draw_new(kind="openpose", base="sd15", picture="")[tab.editor.pose]


def test_leaving_the_editor_shows_the_map_that_was_there(tab: ControlTab) -> None:
    image = tab.studio.keep_image(PERSON / "openpose" / "00.png")
    found = {"kind": "openpose", "image": image}
    assert tab.leave_editor(found=found, kind="canny")[tab.map] == found
    assert tab.leave_editor(found={}, kind="canny")[tab.map] == {}


def test_a_drawing_becomes_a_map_of_its_kind(tab: ControlTab) -> None:
    grey = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1)))
    image = tab.studio.keep_drawn_map("canny", png(grey))
    assert set(np.unique(np.asarray(Image.open(tab.studio.image_file(image))))) == {0, 255}


def test_people_who_were_moved_are_drawn_as_openpose_draws_them(tab: ControlTab) -> None:
    person = standing((256, 256))
    image = tab.studio.keep_pose_map(as_values([person]), 256, 256)
    drawn = Image.open(tab.studio.image_file(image))
    assert np.array_equal(np.asarray(drawn), np.asarray(openpose.draw([person.round(2)], (256, 256))))
    with pytest.raises(BadImage, match="Nobody is in this picture"):
        tab.studio.keep_pose_map([], 256, 256)


def test_the_joints_of_a_photo_are_those_that_its_map_is_drawn_from(tab: ControlTab) -> None:
    photo = PERSON / "image" / "00.png"
    [found] = tab.studio.people(tab.studio.keep_image(photo))
    [expected] = openpose.keypoints(Image.open(photo))
    assert np.array_equal(found, expected)
    assert found.shape == (18, 3)
