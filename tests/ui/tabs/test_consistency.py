"""The Series tab: which LoRAs have a subject to keep, what a pose is, and what is missing, in a sentence."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from engine.errors import BadSettings
from engine.samples import SAMPLES_FOLDER
from engine.settings import SheetSettings
from engine.studio import Studio
from engine.workspace import Workspace
from ui.header import build_header
from ui.page import Page
from ui.tabs.consistency import PROMPTS, ConsistencyTab

PERSON = SAMPLES_FOLDER / "subjects" / "person"


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConsistencyTab:
    """Over a workspace with a bear and a style."""
    monkeypatch.setenv("TRIPOD_STARTER", str(tmp_path / "starter"))
    studio = Studio(Workspace(tmp_path / "workspace"))
    for name, goal in (("Ink", "style"), ("Bear", "product")):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(name.encode())
        about: dict[str, Any] = {"family": "sd15", "base": "starter", "trigger": "sks", "class_name": "bear", "rank": 2}
        studio.workspace.add_lora(file, name=name, **about, settings={"goal": goal, "dataset": "gone"})
    with gr.Blocks() as app:
        base, tabs = build_header(studio, app), gr.Tabs()
        page = Page(studio, app, base, tabs)
        with tabs, gr.Tab("Consistency") as container:
            return ConsistencyTab(page, container)


def start(tab: ConsistencyTab, **changes: Any) -> dict[Any, Any]:
    usual: dict[str, Any] = {
        "base": "starter",
        "lora": "bear",
        "prompt": "a bear",
        "prompts": "at night\n\n in the snow ",
    }
    return tab.start(**(usual | {"poses": None, "accept": 0.7, "retries": 2, "seed": 0} | changes))


def test_only_subjects_are_offered_and_called_up(tab: ConsistencyTab) -> None:
    menu = tab.list_loras(lora="ink")[tab.lora]
    assert (menu.choices, menu.value) == ([("Bear", "bear")], "bear")
    assert tab.call_up(lora="bear")[tab.prompt] == "a photo of sks bear"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lora": None}, "There is no subject yet"),
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompts": "\n \n"}, "There are no prompts"),
        ({}, "no photos here that the LoRA 'Bear' was taught with"),
    ],
)
def test_what_is_missing_is_said_before_a_job_is_started(
    tab: ConsistencyTab, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadSettings, match=problem):
        start(tab, **changes)
    assert tab.studio.jobs() == []


def test_a_pose_is_a_map_or_a_photo(tab: ConsistencyTab) -> None:
    assert tab._pose(PERSON / "openpose" / "00.png").detected
    assert not tab._pose(PERSON / "image" / "00.png").detected


@pytest.mark.parametrize("name", PROMPTS)
def test_every_ready_list_fits_on_a_sheet(tab: ConsistencyTab, name: str) -> None:
    assert tab.fill(name)[tab.prompts].splitlines() == list(PROMPTS[name])
    assert len(PROMPTS[name]) * 4 <= 64
    assert SheetSettings.retries > 0
