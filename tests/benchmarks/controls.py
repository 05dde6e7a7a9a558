"""How well the starter keeps a layout: `python -m tests.benchmarks.controls [--quick] [--scenes N] [--out DIR]`.

Scenes that were never trained on are drawn as photos, each with its prompt and the renderer's own map. From every
picture the map is taken again, by a detector where the ControlNet was trained on the renderer's truth, and compared
with the one that was asked for. The last line is one JSON object:

- by kind, the score of the pictures as a share of the real renders' own; for the edges, whose detector is exact, the
  renders' score is 1;
- `ceiling`: by kind, what the real renders score;
- `without`: by kind, the share that pictures without the map reach, from the prompt alone;
- `sheet`: the first pictures beside their maps.

Every picture is kept in DIR under what drew it, weights and settings, so that a stopped run goes on where it was, and
runs of some kinds each add up to one.

Scores: F1 of edges met within 2 px; correlation of inverse depth; intersection over union of the classes asked for; the
share of normals within 22.5 degrees; joints within a tenth of the person (PCK@0.1).
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine import families
from engine.adapters import Control, attach
from engine.cache import ModelCache
from engine.controls import detect
from engine.controls.ade20k import coloured
from engine.controls.fidelity import class_miou, depth_correlation, edge_f1, pose_pck
from engine.controls.geometry import normals_of
from engine.controls.openpose import draw, keypoints
from engine.errors import NothingDetected
from engine.generation import render as paint
from engine.settings import ControlName, GenerateSettings
from engine.starter.ade20k import classes_of
from engine.starter.captions import full_caption
from engine.starter.corpus import relative_depth, scene
from engine.starter.render import Render, joints_of, render
from engine.starter.world import PERSON, Scene
from engine.workspace import atomic_write

SCENES, QUICK_SCENES = 200, 1
FIRST_SCENE = 20_000  # among the held-out ones
SHEET_ROWS = 8
NEAR_DEG = 22.5

_MODELS = ModelCache()


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A held-out scene with what its renderer knows."""

    scene: Scene
    rendered: Render

    @property
    def photo(self) -> Image.Image:
        return Image.fromarray(self.rendered.image)

    @property
    def joints(self) -> np.ndarray:
        """(18, 3), in pixels; scenes without a person have none."""
        joints = joints_of(self.scene, self.rendered.image.shape[0])
        assert joints is not None
        return joints


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`asked` is the map of a scene; `score` compares a picture with it, the more the better."""

    asked: Callable[[Truth], Image.Image]
    score: Callable[[Truth, Image.Image], float]
    people_only: bool = False


def truths(how_many: int, people_only: bool) -> list[Truth]:
    found = (scene(FIRST_SCENE + index, held_out=True) for index in count())
    shown = (s for s in found if not people_only or any(thing.kind == PERSON for thing in s.things))
    return [Truth(scene=s, rendered=render(s)) for s in islice(shown, how_many)]


def canny(truth: Truth) -> Image.Image:
    return detect("canny", truth.photo)


def depth(truth: Truth) -> Image.Image:
    return Image.fromarray(relative_depth(truth.rendered.depth)).convert("RGB")


def segmentation(truth: Truth) -> Image.Image:
    return coloured(classes_of(truth.scene)[truth.rendered.segmentation])


def normal(truth: Truth) -> Image.Image:
    return Image.fromarray(np.round((truth.rendered.normals + 1) * 127.5).astype(np.uint8))


def pose(truth: Truth) -> Image.Image:
    return draw([truth.joints], truth.photo.size)


def again(kind: str, asked: Callable[[Truth], Image.Image], measure: Callable[..., float]) -> Callable[..., float]:
    """The measure between the map asked for and the one that the usual detector takes from the picture."""

    def score(truth: Truth, picture: Image.Image) -> float:
        try:
            return measure(asked(truth), detect(kind, picture, models=_MODELS))
        except NothingDetected:
            return 0.0

    return score


def near_share(asked: Image.Image, found: Image.Image) -> float:
    cosine = (normals_of(asked) * normals_of(found)).sum(axis=2)
    return float((cosine >= np.cos(np.radians(NEAR_DEG))).mean())


def pose_score(truth: Truth, picture: Image.Image) -> float:
    return pose_pck([truth.joints], keypoints(picture))


KINDS: dict[ControlName, Kind] = {
    "canny": Kind(asked=canny, score=again("canny", canny, edge_f1)),
    "depth": Kind(asked=depth, score=again("depth", depth, depth_correlation)),
    "segmentation": Kind(asked=segmentation, score=again("segmentation", segmentation, class_miou)),
    "normal": Kind(asked=normal, score=again("normal", normal, near_share)),
    "openpose": Kind(asked=pose, score=pose_score, people_only=True),
}


def measure(kinds: list[ControlName], scenes: int, out: Path) -> dict[str, Any]:
    """All figures, over so many scenes; writes `out/controls.png`."""
    base = families.base("starter")
    family = families.family(base.family)
    parts = family.load(base, torch.float32, "cpu")
    pipeline = family.pipeline(parts, "default")

    weights = fingerprint(Path(base.source))
    (out / "drawn").mkdir(parents=True, exist_ok=True)

    def drawn(settings: GenerateSettings, kind: str = "", controls: Sequence[Control] = ()) -> Image.Image:
        asked = f"{weights} {settings} {kind} {base.control_mode}"
        file = out / "drawn" / f"{kind or 'prompt'}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.png"
        if not file.exists():
            with attach(parts, controls=controls) as attached, atomic_write(file) as staged:
                paint(pipeline, settings, base, attached=attached).save(staged, "PNG")
        return Image.open(file).convert("RGB")

    shares: dict[str, float | None] = {}
    ceiling, without, rows = {}, {}, []
    for name in kinds:
        if name not in base.controlnets:
            shares[name] = None
            continue
        kind, controlnet = KINDS[name], family.load_controlnet(base, name, torch.float32, "cpu")
        scores: dict[str, list[float]] = {"render": [], "with": [], "without": []}
        for number, truth in enumerate(truths(scenes, kind.people_only)):
            settings = GenerateSettings(
                prompt=full_caption(truth.scene, "photo"),
                steps=base.default_steps,
                guidance_scale=base.default_guidance,
            )
            asked = kind.asked(truth)
            control = Control(controlnet=controlnet, image=asked, guided=base.control_mode == "layout")
            picture, free = drawn(settings, name, [control]), drawn(settings)
            scores["render"].append(kind.score(truth, truth.photo))
            scores["with"].append(kind.score(truth, picture))
            scores["without"].append(kind.score(truth, free))
            if number < SHEET_ROWS:
                rows.append((truth.photo, asked, picture, free))
        means = {who: mean(values) for who, values in scores.items()}
        shares[name] = round(means["with"] / means["render"], 3)
        without[name], ceiling[name] = round(means["without"] / means["render"], 3), round(means["render"], 3)
        print(name, means, flush=True)
    sheet(rows).save(out / "controls.png")
    return {**shares, "ceiling": ceiling, "without": without, "scenes": scenes, "sheet": str(out / "controls.png")}


def fingerprint(folder: Path) -> str:
    """SHA-256 of all weights in `folder`."""
    files = sorted(folder.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def sheet(rows: list[tuple[Image.Image, ...]], columns: int = 2) -> Image.Image:
    """Render, map, picture with it and picture without it, `columns` of these side by side."""
    side, wide = 192, 4
    page = Image.new("RGB", (side * wide * columns, side * -(-len(rows) // columns)), "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            x, y = (i % columns * wide + j) * side, i // columns * side
            page.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (x, y))
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one scene a kind, to see that it runs")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    print(json.dumps(measure(options.kinds, QUICK_SCENES if options.quick else options.scenes, options.out)))
