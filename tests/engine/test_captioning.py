"""Captions: what BLIP says against BLIP asked directly, where they go, and the text helpers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.cache import ModelCache
from engine.captioning import caption_dataset, load_captioner, replace_in_captions, with_trigger
from engine.errors import BadDataset, BadSettings, Cancelled, MissingModel
from engine.jobs import Work
from engine.settings import CaptionSettings
from engine.workspace import Dataset, Photo, Workspace
from tests.tiny import make_tiny_base


@pytest.fixture(scope="module")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def tiny_base(tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPOD_STARTER", str(tiny_base_folder))
    return tiny_base_folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def dataset(workspace: Workspace) -> Dataset:
    """Three photos, the second of which has a caption."""
    dataset = workspace.create_dataset("Bear")
    rng = np.random.default_rng(0)
    photos = []
    for number, caption in enumerate(("", "a green box", "")):
        image = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        content_hash = workspace.keep_image(image)
        photos.append(
            Photo(
                id=f"p{number}",
                file=f"{number}.jpg",
                image=content_hash,
                width_px=40,
                height_px=40,
                crop=None,
                caption=caption,
            )
        )
    dataset = dataset.replace(photos=tuple(photos))
    workspace.save_dataset(dataset)
    return dataset


def captions(workspace: Workspace, dataset: Dataset) -> list[str]:
    return [photo.caption for photo in workspace.dataset(dataset.id).photos]


def test_the_caption_is_what_blip_says(tiny_base: Path, workspace: Workspace, dataset: Dataset) -> None:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    image = workspace.image(dataset.photos[0].image)
    model: Any = BlipForConditionalGeneration.from_pretrained(tiny_base / "captioner")
    processor: Any = BlipProcessor.from_pretrained(tiny_base / "captioner")
    tokens = model.generate(**processor(image, return_tensors="pt"), num_beams=3, max_new_tokens=48)
    expected = processor.decode(tokens[0], skip_special_tokens=True)

    captioner = load_captioner("starter")

    assert captioner.describe(image) == captioner.describe(image) == expected.strip() != ""


@pytest.mark.parametrize(
    ("choice", "described"),
    [({}, (0, 1, 2)), ({"only_empty": True}, (0, 2)), ({"photos": ("p1",)}, (1,))],
)
def test_all_the_empty_or_the_chosen_are_captioned(
    tiny_base: Path, workspace: Workspace, dataset: Dataset, tmp_path: Path, choice: Any, described: tuple[int, ...]
) -> None:
    settings = CaptionSettings(dataset=dataset.id, trigger="sks", class_name="teddy bear", **choice)

    result = caption_dataset(settings, workspace=workspace, cache=ModelCache(), work=Work(tmp_path, {}))

    assert result == {"captioned": len(described)}
    current = workspace.dataset(dataset.id)
    assert (current.trigger, current.class_name) == ("sks", "teddy bear")
    for number, (old, new) in enumerate(zip(dataset.photos, captions(workspace, dataset), strict=True)):
        if number in described:
            assert new.startswith("sks teddy bear, ")
        else:
            assert new == old.caption


def test_a_stop_keeps_what_was_written_and_edits_made_meanwhile(
    tiny_base: Path, workspace: Workspace, dataset: Dataset, tmp_path: Path
) -> None:
    class Impatient(Work):
        def progress(self, step: int, total: int, message: str = "") -> None:
            if step == 1:
                edited = (photo.replace(caption="mine") if photo.id == "p2" else photo for photo in current().photos)
                workspace.save_dataset(current().replace(photos=tuple(edited)))
                (self.folder / "cancel").touch()

    def current() -> Dataset:
        return workspace.dataset(dataset.id)

    settings = CaptionSettings(dataset=dataset.id, trigger="sks")
    with pytest.raises(Cancelled):
        caption_dataset(settings, workspace=workspace, cache=ModelCache(), work=Impatient(tmp_path, {}))

    first, second, third = captions(workspace, dataset)
    assert first.startswith("sks, ")
    assert second.startswith("sks, ")
    assert third == "mine"


def test_nothing_to_caption_says_so(workspace: Workspace, dataset: Dataset, tmp_path: Path) -> None:
    settings = CaptionSettings(dataset=dataset.id, only_empty=True, photos=("p1",))
    with pytest.raises(BadDataset, match="no photo to caption"):
        caption_dataset(settings, workspace=workspace, cache=ModelCache(), work=Work(tmp_path, {}))


def test_without_the_hub_a_missing_captioner_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModel, match=r"Salesforce/blip2-opt-2\.7b"):
        load_captioner("blip2")


def test_an_unknown_captioner_is_refused() -> None:
    with pytest.raises(BadSettings, match=r"'nosuch'.*starter, blip"):
        load_captioner("nosuch")


@pytest.mark.parametrize(
    ("caption", "trigger", "class_name", "expected"),
    [
        (
            "a photo of a brown teddy bear on a table",
            "sks",
            "teddy bear",
            "sks teddy bear, a photo of a brown teddy bear on a table",
        ),
        ("sks teddy bear, a photo", "sks", "teddy bear", "sks teddy bear, a photo"),
        ("a photo of sks on a table", "sks", "teddy bear", "a photo of sks on a table"),
        ("a photo of asks", "sks", "", "sks, a photo of asks"),
        ("a photo of a c++ mug", "c++", "mug", "a photo of a c++ mug"),
        ("a photo", "", "teddy bear", "teddy bear, a photo"),
        ("a brown teddy bear", "", "teddy bear", "a brown teddy bear"),
        ("", "sks", "teddy bear", "sks teddy bear"),
        (" a photo ", "", "", "a photo"),
    ],
)
def test_with_trigger(caption: str, trigger: str, class_name: str, expected: str) -> None:
    assert with_trigger(caption, trigger, class_name) == expected
    assert with_trigger(expected, trigger, class_name) == expected


def test_replace_in_captions_takes_plain_text_and_minds_case(dataset: Dataset) -> None:
    texts = ("A bear (brown). A bear.", "a bear", "")
    photos = (photo.replace(caption=text) for photo, text in zip(dataset.photos, texts, strict=True))
    dataset = dataset.replace(photos=tuple(photos))

    def replaced(find: str, replace: str) -> tuple[list[str], int]:
        changed, count = replace_in_captions(dataset, find, replace)
        return [photo.caption for photo in changed.photos], count

    assert replaced("A bear", r"\1") == ([r"\1 (brown). \1.", "a bear", ""], 1)
    assert replaced("(brown).", "at night.") == (["A bear at night. A bear.", "a bear", ""], 1)
    assert replaced("a bear", "") == (["A bear (brown). A bear.", "", ""], 1)
    assert replaced("bear", "cat") == (["A cat (brown). A cat.", "a cat", ""], 2)
    with pytest.raises(BadSettings, match="nothing to find"):
        replace_in_captions(dataset, "", "x")
