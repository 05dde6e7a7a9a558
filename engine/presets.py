"""Settings that come ready-made: for a training by goal and base, for pictures by the few-step LoRA that is used.

They are in `presets/training/*.toml` and `presets/generation/*.toml`. Knows nothing of models.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.families import base as find_base
from engine.settings import Goal, SchedulerName

FOLDER = Path(__file__).parent.parent / "presets" / "training"
GENERATION_FOLDER = FOLDER.parent / "generation"
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


@dataclass(frozen=True, kw_only=True)
class FewSteps:
    """How pictures are made with a LoRA that was distilled to take few steps: LCM, Lightning, Hyper, Turbo, DMD2."""

    title: str
    steps: int
    guidance_scale: float
    scheduler: SchedulerName


def few_steps(names: Iterable[str], base: str) -> FewSteps | None:
    """What suits a LoRA with these names, in its file and in the workspace; None if no name is one of a few-step LoRA.

    Published files say it in nothing but their names, which mostly tell the number of steps too.
    Raises: NotFound when there is no such base.
    """
    chosen = find_base(base)
    for name in names:
        words = re.sub(r"[^a-z0-9]+", " ", name.lower())
        for method in _methods():
            if found := re.search(method["sign"], words):
                values = method | method.get(chosen.family, {})
                told = found.groupdict().get("steps")
                known = values["scheduler"] in chosen.spec.schedulers
                return FewSteps(
                    title=values["title"],
                    steps=int(told or values["steps"]),
                    guidance_scale=values["guidance_scale"],
                    scheduler=values["scheduler"] if known else "default",
                )
    return None


@cache
def _methods() -> list[dict[str, Any]]:
    return [tomllib.loads(path.read_text()) for path in sorted(GENERATION_FOLDER.glob("*.toml"))]
