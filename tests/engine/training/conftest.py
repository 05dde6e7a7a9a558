"""A tiny base in place of the starter, and a workspace with ten small photos to train on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.families import Base, Components, base, family
from engine.settings import CropBox, TrainSettings
from engine.workspace import Photo, Workspace
from tests.tiny import SIDE_PX, make_tiny_base


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_base(tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("TRIPOD_STARTER", str(tiny_base_folder))
    return base("starter")


@pytest.fixture
def parts(tiny_base: Base) -> Components:
    return family(tiny_base.family).load(tiny_base, torch.float32, "cpu")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def settings(workspace: Workspace) -> TrainSettings:
    """A short training of ten photos: smooth random colours, 80 x 70 px, cropped to squares of 64 px."""
    dataset = workspace.create_dataset("Bear", trigger="sks", class_name="teddy bear")
    rng = np.random.default_rng(0)
    photos = []
    for number in range(10):
        image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize(
            (80, 70), Image.Resampling.BICUBIC
        )
        photos.append(
            Photo(
                id=f"p{number}",
                file=f"{number}.png",
                image=workspace.keep_image(image),
                width_px=80,
                height_px=70,
                crop=CropBox(left_px=3, top_px=5, side_px=64),
                caption=f"sks teddy bear, a photo of a bear number {number}",
            )
        )
    workspace.save_dataset(dataset.replace(photos=tuple(photos)))
    return TrainSettings(
        dataset=dataset.id,
        name="Bear",
        class_name="teddy bear",
        resolution=SIDE_PX,
        steps=30,
        rank=4,
        alpha=8.0,
        sample_every=1000,
        checkpoint_every=10,
    )
