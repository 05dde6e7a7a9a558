import json

import numpy as np
import pytest
from PIL import Image

from engine.errors import NotFound
from engine.samples import SAMPLES_FOLDER, load_samples
from engine.settings import Goal

MAX_SIZE_MB = 20


def test_every_subject_is_whole() -> None:
    subjects = load_samples().subjects

    assert [subject.name for subject in subjects] == ["teddy_bear", "fire_extinguisher", "stone_lantern", "person"]
    for subject in subjects:
        assert (len(subject.photos), len(subject.held_out)) == (16, 4)
        assert not set(subject.photos) & set(subject.held_out)
        assert subject.goal in Goal.__args__
        for photo in subject.photos + subject.held_out:
            caption = photo.with_suffix(".txt").read_text()
            assert caption.startswith(f"a photo of {subject.trigger} {subject.class_name}")


def test_maps_belong_to_their_pictures() -> None:
    for subject in load_samples().subjects:
        for photo in subject.held_out:
            with Image.open(photo) as image:
                size = image.size
            for kind in ("mask", "depth", "normal"):
                with Image.open(photo.parents[1] / kind / photo.name) as truth:
                    assert truth.size == size
            depth = np.asarray(Image.open(photo.parents[1] / "depth" / photo.name))
            mask = np.asarray(Image.open(photo.parents[1] / "mask" / photo.name)) > 127
            assert depth[mask].min() > 0  # near is white: the subject lies before the background
    joints = json.loads((SAMPLES_FOLDER / "subjects/person/keypoints_coco17.json").read_text())
    assert [np.shape(entry["coco17"]) for entry in joints] == [(17, 2)] * 20


def test_compositions_and_looks_open() -> None:
    samples = load_samples()

    assert 5 <= len(samples.compositions) <= 8
    for picture in samples.compositions + samples.looks:
        with Image.open(picture.file) as image:
            assert min(image.size) >= 256
    assert len({picture.name for picture in samples.compositions}) == len(samples.compositions)


def test_stays_small_and_names_its_origins() -> None:
    files = [file for file in SAMPLES_FOLDER.rglob("*") if file.is_file()]
    notice = (SAMPLES_FOLDER / "NOTICE.md").read_text()

    assert sum(file.stat().st_size for file in files) < MAX_SIZE_MB * 1e6
    for file in files:
        inside = file.relative_to(SAMPLES_FOLDER)
        named = [f"`{inside.as_posix()}`", *(f"`{folder.as_posix()}/`" for folder in inside.parents)]
        assert len(inside.parts) == 1 or any(name in notice for name in named), f"NOTICE.md says nothing of {inside}"


def test_unknown_subject_is_refused() -> None:
    with pytest.raises(NotFound, match=r"'robot'.*Choose one of: teddy_bear, "):
        load_samples().subject("robot")
