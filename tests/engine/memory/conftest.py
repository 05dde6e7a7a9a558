"""A tiny base in place of the starter."""

from pathlib import Path

import pytest
import torch

from engine.families import Base, base
from engine.workspace import Workspace
from tests.tiny import make_tiny_base


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def tiny_base(tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("TRIPOD_STARTER", str(tiny_base_folder))
    return base("starter")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")
