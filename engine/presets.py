"""Training settings by goal and base, from `presets/training/*.toml`. Knows nothing of models."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from engine.families import base as find_base
from engine.settings import Goal

FOLDER = Path(__file__).parent.parent / "presets" / "training"
QUALITIES = {"quick": 0.5, "standard": 1.0, "best": 2.0}
"""How many times the steps of the preset each quality takes."""


def training_preset(goal: Goal, base: str, quality: str = "standard") -> dict[str, Any]:
    """Fields of TrainSettings for what is to be taught, from the file of the base itself or else of its family.

    The resolution is the base's own. Raises: NotFound when there is no such base.
    """
    chosen = find_base(base)
    tables = _tables(chosen.name) or _tables(chosen.family)
    preset = {"resolution": chosen.default_size_px} | tables["all"] | tables[goal]
    return preset | {"steps": round(preset["steps"] * QUALITIES[quality])}


@cache
def _tables(name: str) -> dict[str, dict[str, Any]]:
    path = FOLDER / f"{name}.toml"
    return tomllib.loads(path.read_text()) if path.exists() else {}
