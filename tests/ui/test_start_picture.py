"""The start of a picture on the page: taken, painted on, refused, brought back; and the numbers that follow a LoRA."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from engine.abilities import WhyNot
from engine.errors import BadImage
from engine.samples import SAMPLES_FOLDER
from engine.settings import GenerateSettings, LoraUse, StartImage
from engine.studio import Studio
from engine.workspace import Workspace
from ui import form
from ui.header import build_header
from ui.page import Page
from ui.tabs.generate import GenerateTab

COFFEE = SAMPLES_FOLDER / "compositions" / "coffee.png"
NUMBERS = {"steps": 25, "guidance_scale": 7.5, "scheduler": "euler"}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_STARTER", str(tmp_path_factory.mktemp("starter")))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
        studio = Studio(Workspace(tmp_path_factory.mktemp("workspace")))
        with gr.Blocks() as app:
            base, tabs = build_header(studio, app), gr.Tabs()
            page = Page(studio, app, base, tabs)
            with tabs, gr.Tab("Generate") as container:
                made = GenerateTab(page, container)
        yield made


def set_to(tab: GenerateTab, updates: dict[Any, Any]) -> dict[str, Any]:
    """What of the start the updates set, by name."""
    return {
        name.removeprefix("start."): updates[component]
        for name, component in tab.inputs.items()
        if name.startswith("start.") and component in updates
    }


def painted(size: tuple[int, int], white: bool) -> Any:
    """The event of a brush that is done."""
    drawn = Image.new("RGB", size)
    if white:
        drawn.paste("white", (10, 10, 40, 40))
    png = io.BytesIO()
    drawn.save(png, "PNG")
    return SimpleNamespace(png=base64.b64encode(png.getvalue()).decode())


def test_a_picture_given_is_started_from_as_a_whole(tab: GenerateTab) -> None:
    updates = tab.start.take_upload(file={"path": str(COFFEE)}, image="", mask="")
    assert set_to(tab, updates) == {"image": tab.studio.keep_image(COFFEE), "mask": ""}


def test_what_is_painted_is_the_mask_of_the_picture(tab: GenerateTab) -> None:
    image = tab.studio.keep_image(COFFEE)
    with Image.open(COFFEE) as opened:
        size = opened.size
    updates = tab.start.take_mask(painted(size, white=True), image=image)
    mask = np.asarray(tab.studio.workspace.image(set_to(tab, updates)["mask"]))
    assert mask.shape == size[::-1]
    assert (np.count_nonzero(mask), mask.max()) == (900, 255)
    with pytest.raises(BadImage, match="The mask is empty"):
        tab.start.take_mask(painted(size, white=False), image=image)
    with pytest.raises(BadImage, match="The mask is 96 × 64 px"):
        tab.start.take_mask(painted((96, 64), white=True), image=image)


def test_a_picture_of_three_pixels_is_refused_and_the_one_before_stays(tab: GenerateTab, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "dot.png")
    image = tab.studio.keep_image(COFFEE)
    updates = tab.start.take_upload(file={"path": str(tmp_path / "dot.png")}, image=image, mask="")
    assert "dot.png is too small or too narrow: 3 × 3 px." in updates[tab.start.notice]
    assert set_to(tab, updates) == {"image": image, "mask": ""}


def described(tab: GenerateTab, **asked: Any) -> dict[Any, Any]:
    usual = {"base": "starter", "width": 256, "height": 256, "image": "", "mask": "", "only_masked": False}
    return tab.start.describe(**(usual | asked))


def test_what_is_cut_off_and_what_the_base_lacks_is_said(tab: GenerateTab, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tab.studio.keep_image(COFFEE)
    assert described(tab)[tab.start.notes] == ""
    assert "33% of it, at the border, is cut off" in described(tab, image=image)[tab.start.notes]
    assert described(tab, image=image, width=384)[tab.start.notes] == ""
    assert described(tab, image=image)[tab.start.paint].interactive
    lacks = {"image_to_image": "", "inpainting": "Starter cannot repaint only a part of a picture."}
    monkeypatch.setattr(WhyNot, "task", lambda self, task: lacks[task])
    greyed = described(tab, image=image, width=384)
    assert not greyed[tab.start.paint].interactive
    assert lacks["inpainting"] in greyed[tab.start.notes]


def test_the_start_of_a_recipe_comes_back(tab: GenerateTab) -> None:
    image = tab.studio.keep_image(COFFEE)
    start = StartImage(image=image, mask=tab.studio.empty_mask(image), strength=0.8, only_masked=True)
    settings = GenerateSettings(prompt="a mug", start=start)
    updates = tab.fill(settings)
    names = {component: name for name, component in tab.inputs.items()}
    back = {names[component]: value for component, value in updates.items() if component in names}
    back |= {name: "" for name in back if name.endswith(".lora")}  # menus carry their choices too
    back |= {name: back[name]["value"] for name in ("scheduler", "true_cfg_scale")}  # those that the base offers
    assert form.parse(GenerateSettings, back) == settings
    assert updates[tab.start.picture]
    assert not tab.fill(GenerateSettings(prompt="a mug"))[tab.start.picture]


@pytest.fixture(scope="module")
def fast_lora(tab: GenerateTab, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("loras") / "lora.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, file)
    about = {"family": "sd15", "base": "starter", "trigger": "", "class_name": "", "rank": 2}
    return tab.studio.workspace.add_lora(file, name="Hyper-SD15-4steps-lora", **about).id


def followed(tab: GenerateTab, state: dict[str, Any], lora: str, **numbers: Any) -> dict[Any, Any]:
    return tab.few_steps.follow(state=state, base="starter", lora_0=lora, lora_1="", **(NUMBERS | numbers))


def numbers_in(tab: GenerateTab, updates: dict[Any, Any]) -> dict[str, Any]:
    return {name: updates[tab.inputs[name]] for name in NUMBERS if tab.inputs[name] in updates}


def test_numbers_follow_a_few_step_lora_into_the_stack_and_out_of_it(tab: GenerateTab, fast_lora: str) -> None:
    start = tab.few_steps.state.value
    into = followed(tab, start, fast_lora)
    few = {"steps": 4, "guidance_scale": 1.0, "scheduler": "ddim_trailing"}
    assert numbers_in(tab, into) == few
    assert "Hyper needs few steps: 4 steps, CFG 1" in into[tab.few_steps.notice]
    again = followed(tab, into[tab.few_steps.state], fast_lora, **few)
    assert numbers_in(tab, again) == {}
    out = followed(tab, into[tab.few_steps.state], "", **few)
    assert numbers_in(tab, out) == NUMBERS
    assert out[tab.few_steps.state] == start


def test_own_numbers_can_be_kept(tab: GenerateTab, fast_lora: str) -> None:
    into = followed(tab, tab.few_steps.state.value, fast_lora)
    undone = tab.few_steps.put_back(state=into[tab.few_steps.state])
    assert numbers_in(tab, undone) == NUMBERS
    assert numbers_in(tab, followed(tab, undone[tab.few_steps.state], fast_lora)) == {}


def test_a_restored_recipe_keeps_its_own_numbers(tab: GenerateTab, fast_lora: str) -> None:
    settings = GenerateSettings(prompt="a mug", steps=6, loras=(LoraUse(lora=fast_lora),))
    updates = tab.fill(settings)
    assert updates[tab.inputs["steps"]] == 6
    assert numbers_in(tab, followed(tab, updates[tab.few_steps.state], fast_lora, steps=6)) == {}


@pytest.mark.parametrize(
    ("base", "scales", "cfg", "negative"),
    [
        ("starter", (2.5, 1.0), "", ""),
        ("starter", (1.0, 1.0), "", "at CFG 1"),
        ("flux_dev", (3.5, 1.0), "", "at true CFG 1"),
        ("flux_dev", (3.5, 2.0), "", ""),
        ("flux_schnell", (3.5, 2.0), "Flux.1 schnell was distilled", ""),
        ("flux2_klein", (3.5, 1.0), "FLUX.2 klein was distilled", "FLUX.2 klein was distilled"),
    ],
)
def test_guidance_without_effect_is_greyed_with_its_reason(
    tab: GenerateTab, base: str, scales: tuple[float, float], cfg: str, negative: str
) -> None:
    shown = tab.guidance.describe(base=base, guidance_scale=scales[0], true_cfg_scale=scales[1])
    box, text = shown[tab.inputs["guidance_scale"]], shown[tab.inputs["negative_prompt"]]
    assert box.interactive is not bool(cfg)
    assert cfg in shown[tab.guidance.notes]
    assert bool(shown[tab.guidance.notes]) is bool(cfg)
    assert text.interactive is not bool(negative)
    assert negative in (text.info or "")
    assert bool(text.info) is bool(negative)
    assert tab.guidance.describe(base=base, guidance_scale=None, true_cfg_scale=1.0) == {}
