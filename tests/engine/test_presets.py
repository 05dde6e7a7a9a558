"""Every preset is a complete, valid request."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from engine.errors import NotFound
from engine.families import BASES
from engine.presets import FOLDER, QUALITIES, training_preset
from engine.settings import Goal, TrainSettings


@pytest.fixture(autouse=True)
def starter_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starter of 256 px, as far as its configuration says."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"sample_size": 32}))
    monkeypatch.setenv("TRIPOD_STARTER", str(tmp_path))


@pytest.mark.parametrize("goal", get_args(Goal))
@pytest.mark.parametrize("base", sorted(BASES))
def test_every_preset_makes_valid_settings(base: str, goal: Any) -> None:
    preset = training_preset(goal, base)

    settings = TrainSettings.from_dict({"dataset": "d", "name": "n", "base": base, "goal": goal, **preset})

    # As the files promise: learning rates carry over, because the effective scale is the same everywhere
    assert settings.alpha / settings.rank == 1
    assert settings.resolution == {"starter": 256, "sd15": 512, "sdxl": 1024}[base]


def test_quality_scales_the_steps_only() -> None:
    quick, standard, best = (training_preset("product", "starter", quality) for quality in QUALITIES)

    assert (2 * quick["steps"], best["steps"]) == (standard["steps"], 2 * standard["steps"])
    assert quick | {"steps": 0} == standard | {"steps": 0} == best | {"steps": 0}


def test_unknown_base_is_refused() -> None:
    with pytest.raises(NotFound, match="nosuch"):
        training_preset("face", "nosuch")


def test_a_file_serves_one_base_or_its_family() -> None:
    names = {path.stem for path in FOLDER.glob("*.toml")}
    assert names <= set(BASES) | {base.family for base in BASES.values()}
