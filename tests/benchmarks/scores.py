"""Whether the scores tell right from wrong: `python -m tests.benchmarks.scores [--quick]`.

Every score is measured where the truth is known, by the functions that score pictures in the studio. The last line is
one JSON object; an AUC is the chance that a right one scores higher than a wrong one:

- `identity_auc`: held-out photos of the sample subjects against the photos of their own and of the other subjects;
- `layout_auc`: sample photos against their own and other photos' exact maps, the lowest of the kinds, all of which are
  in `layout_auc_by_kind`: a kind without exact maps has those taken from the photo before it was compressed;
- `style_auc`: held-out renders in all looks, the held-out ones too, against the samples of their own and other looks;
- `prompt_auc`: held-out renders with their own captions and those of others;
- `ceilings`: what the right ones score on average.
"""

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image

from engine.cache import ModelCache
from engine.controls import KINDS, detect
from engine.controls.ready import fitted
from engine.samples import SAMPLES_FOLDER, load_samples
from engine.scores import identity, layout, prompt, style

LAYOUT_SIDE_PX = 256
JPEG_QUALITY = 60


@dataclass(frozen=True, kw_only=True)
class Told:
    """Values of what was right and of what was wrong."""

    right: tuple[float, ...]
    wrong: tuple[float, ...]

    @property
    def auc(self) -> float:
        """The chance that a right one is above a wrong one; draws count half (Mann-Whitney)."""
        right, wrong = np.array(self.right)[:, None], np.array(self.wrong)[None]
        return float((right > wrong).mean() + (right == wrong).mean() / 2)


def identities(models: ModelCache, photos: int = 16, held_out: int = 4) -> Told:
    subjects = load_samples().subjects
    references = [identity.reference(opened(s.photos[:photos]), models=models) for s in subjects]
    right, wrong = [], []
    for own, subject in enumerate(subjects):
        for picture in opened(subject.held_out[:held_out]):
            for other, reference in enumerate(references):
                value = identity.identity(picture, reference, models=models).value
                (right if other == own else wrong).append(value)
    return Told(right=tuple(right), wrong=tuple(wrong))


def opened(files: Sequence[Any]) -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in files]


def layouts(kind: str, models: ModelCache, count: int = 8) -> Told:
    folder = SAMPLES_FOLDER / "subjects" / "person"
    side_px = (LAYOUT_SIDE_PX, LAYOUT_SIDE_PX)
    if (folder / kind).is_dir():
        pictures = [image.resize(side_px) for image in opened(sorted((folder / "image").glob("*.png"))[:count])]
        exact = opened(sorted((folder / kind).glob("*.png"))[:count])
        maps = [fitted(kind, map_, *layout.size_to_compare(kind, *side_px)) for map_ in exact]
    else:
        samples = load_samples()
        files = [one.file for one in samples.compositions]
        if kind == "lines":  # what has some: a cat has none
            files = list(samples.subject("stone_lantern").photos)
        originals = [image.resize(side_px) for image in opened(files[:count])]
        maps = [detect(kind, original, models=models) for original in originals]
        pictures = [compressed(original) for original in originals]
    right, wrong = [], []
    for own, picture in enumerate(pictures):
        for other, map_ in enumerate(maps):
            (right if other == own else wrong).append(layout.layout(picture, map_, kind, models=models).value)
    return Told(right=tuple(right), wrong=tuple(wrong))


def compressed(picture: Image.Image) -> Image.Image:
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return Image.open(jpeg).convert("RGB")


def offline_kinds() -> list[str]:
    return [name for name, kind in KINDS.items() if kind.detectors[0].offline]


def styles(models: ModelCache, contents: int = 6) -> Told:
    from engine.starter.captions import full_caption
    from engine.starter.corpus import held_out_picture, scene

    looks = load_samples().looks
    references = opened([look.file for look in looks])
    right, wrong = [], []
    for own, look in enumerate(looks):
        name = look.name.replace("-", " ")
        for index in range(40_000, 40_000 + contents):
            picture = Image.fromarray(held_out_picture(index, name))
            text = full_caption(scene(index, held_out=True), name)
            for other, reference in enumerate(references):
                (right if other == own else wrong).append(style.style(picture, reference, text, models=models).value)
    return Told(right=tuple(right), wrong=tuple(wrong))


def prompts(models: ModelCache, count: int = 60) -> Told:
    from engine.starter.captions import full_caption
    from engine.starter.corpus import held_out_picture, scene
    from engine.starter.looks import LOOKS

    indices = range(50_000, 50_000 + count)
    asked = [(index, "photo" if index % 3 == 0 else LOOKS[index % len(LOOKS)]) for index in indices]
    captions = [full_caption(scene(index, held_out=True), look) for index, look in asked]
    right, wrong = [], []
    for own, (index, look) in enumerate(asked):
        picture = Image.fromarray(held_out_picture(index, look))
        for text in {captions[own], captions[(own + 1) % count], captions[(own + count // 2) % count]}:
            score = prompt.prompt_kept(picture, text, models=models)
            assert score is not None, "every caption names something"
            (right if text == captions[own] else wrong).append(score.value)
    return Told(right=tuple(right), wrong=tuple(wrong))


def measure(quick: bool) -> dict[str, Any]:
    models = ModelCache()
    by_kind = {kind: layouts(kind, models, count=4 if quick else 8) for kind in offline_kinds()}
    told = {
        "identity": identities(models, *((6, 2) if quick else ())),
        "style": styles(models, *((2,) if quick else ())),
        "prompt": prompts(models, *((10,) if quick else ())),
    }
    return {
        **{f"{name}_auc": round(one.auc, 4) for name, one in told.items()},
        "layout_auc": round(min(one.auc for one in by_kind.values()), 4),
        "layout_auc_by_kind": {kind: round(one.auc, 4) for kind, one in by_kind.items()},
        "ceilings": {name: round(mean(one.right), 3) for name, one in (told | by_kind).items()},
        "wrong": {name: round(mean(one.wrong), 3) for name, one in (told | by_kind).items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    print(json.dumps(measure(parser.parse_args().quick)))
