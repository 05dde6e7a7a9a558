"""The tiny bases that LoRA files are read for."""

from pathlib import Path

import pytest
import torch

from engine import families
from engine.families import Base
from tests.tiny import make_tiny_base


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_base(tmp_path_factory.mktemp("tiny") / "starter")


@pytest.fixture
def base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("TRIPOD_STARTER", str(folder))
    return families.base("starter")
