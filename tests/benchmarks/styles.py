"""Whether looks that were never trained on are taken over: `python -m tests.benchmarks.styles [--quick]`.

Prompts that name no look are drawn by the starter without and with a reference in a held-out look (`HELD_OUT_LOOKS`),
whose content is another scene's. The last line is one JSON object with, for each look and as means over them:

- `toward_look`: how far the pictures went from where they are without the reference to where renders of the same scenes
  in that look are, by style similarity to the reference: 0 is not at all, 1 is all the way;
- `leak`: the share of the pictures in which the judge sees the reference's thing, though the prompt names another.

The same functions score pictures in the studio.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image

from engine.cache import ModelCache
from engine.generation import generate
from engine.jobs import Work
from engine.scores.style import content_leak, style_similarity
from engine.settings import GenerateSettings, StyleUse
from engine.starter.captions import caption
from engine.starter.corpus import held_out_picture, scene
from engine.starter.looks import HELD_OUT_LOOKS
from engine.workspace import Workspace

FIRST_SCENE, FIRST_REFERENCE = 70_000, 80_000
LEAKED = 0.5  # the judge is surer than not
STYLE_WEIGHT = 1.0


def asked(count: int) -> list[tuple[int, str]]:
    """Held-out scenes with captions that name no look."""
    indices = range(FIRST_SCENE, FIRST_SCENE + count)
    return [
        (index, caption(scene(index, held_out=True), "photo", np.random.default_rng(index), name_look=False))
        for index in indices
    ]


def reference_for(index: int, look: str) -> Image.Image:
    """A picture in the look of a scene that shares no thing with scene `index`."""
    shown = {thing.kind for thing in scene(index, held_out=True).things}
    other = FIRST_REFERENCE + index - FIRST_SCENE
    while shown & {thing.kind for thing in scene(other, held_out=True).things}:
        other += 1000
    return Image.fromarray(held_out_picture(other, look))


def measure(folder: Path, count: int, steps: int, weight: float) -> dict[str, Any]:
    workspace, models, work = Workspace(folder), ModelCache(), Work(folder, {})

    def drawn(text: str, seed: int, *styles: StyleUse) -> Image.Image:
        settings = GenerateSettings(prompt=text, seed=seed, steps=steps, styles=styles)
        [picture] = generate(settings, workspace=workspace, cache=models, work=work)["pictures"]
        return Image.open(workspace.picture_path(picture)).convert("RGB")

    prompts = asked(count)
    plain = {index: drawn(text, index) for index, text in prompts}
    by_look = {}
    for look in HELD_OUT_LOOKS:
        without, with_it, real, leaks = [], [], [], []
        for index, text in prompts:
            reference = reference_for(index, look)
            use = StyleUse(image=workspace.keep_image(reference), weight=weight)
            styled = drawn(text, index, use)
            render = Image.fromarray(held_out_picture(index, look))
            for similarities, picture in ((without, plain[index]), (with_it, styled), (real, render)):
                similarities.append(style_similarity(picture, reference, models=models))
            leaks.append(content_leak(styled, reference, text, models=models) > LEAKED)
        by_look[look] = {
            "toward_look": round((mean(with_it) - mean(without)) / (mean(real) - mean(without)), 3),
            "leak": round(mean(leaks), 3),
        }
    return {
        "toward_look": round(mean(figures["toward_look"] for figures in by_look.values()), 3),
        "leak": round(mean(figures["leak"] for figures in by_look.values()), 3),
        "by_look": by_look,
        "weight": weight,
        "pictures": count * len(by_look),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two scenes of ten steps instead of twenty of twenty")
    parser.add_argument("--weight", type=float, default=STYLE_WEIGHT, help="of the reference")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        count, steps = (2, 10) if options.quick else (20, 20)
        print(json.dumps(measure(Path(temporary), count, steps, options.weight)))
