"""How exact the embedded detectors are: `python -m tests.benchmarks.detectors [--quick]`.

On the rendered samples, whose joints, depth, normals and silhouettes the renderer knew. The last line is one JSON
object, with null for a detector that is not embedded yet:

- `depth_correlation`: mean over pictures of the correlation with the exact relative inverse depth;
- `normal_median_deg`: mean over pictures of the median angle to the exact normals, on the thing;
- `segmentation_miou`: mean over pictures of a person of the IoU of person and of all else;
- `pose_pck`: the share of joints within a tenth of the person (PCK@0.1), mean over pictures.
"""

import argparse
import json
from collections.abc import Iterable
from statistics import mean

import numpy as np
from PIL import Image

from engine.cache import ModelCache
from engine.controls import KINDS, detect
from engine.controls.ade20k import classes_of, coloured
from engine.controls.fidelity import class_miou, depth_correlation, normal_median_deg, pose_pck
from engine.controls.openpose import keypoints
from engine.samples import SAMPLES_FOLDER
from tests.engine.controls.people import exact_joints

SUBJECTS = ("teddy_bear", "fire_extinguisher", "stone_lantern", "person")
VIEWS, QUICK_VIEWS = range(20), range(0, 20, 5)
WALL, PERSON = 0, 12  # in ADE20K


def sample(subject: str, kind: str, view: int) -> Image.Image:
    return Image.open(SAMPLES_FOLDER / "subjects" / subject / kind / f"{view:02}.png").convert("RGB")


def on_thing(subject: str, view: int) -> np.ndarray:
    return np.asarray(sample(subject, "mask", view).convert("L")) > 127


def person_or_not(person: np.ndarray) -> Image.Image:
    return coloured(np.where(person, PERSON, WALL))


def pose(views: Iterable[int]) -> float:
    asked = exact_joints()
    scores = []
    for view in views:
        exact = np.column_stack([asked[f"{view:02}.png"], np.ones(18)])
        scores.append(pose_pck([exact], keypoints(sample("person", "image", view))))
    return mean(scores)


def embedded(kind: str, views: Iterable[int]) -> float | None:
    """The mean score of the starter's detector of a kind; None while it is not there."""
    if "starter" not in [detector.name for detector in KINDS[kind].detectors]:
        return None
    models, scores = ModelCache(), []
    for subject in SUBJECTS if kind != "segmentation" else ("person",):
        for view in views:
            found = detect(kind, sample(subject, "image", view), detector="starter", models=models)
            thing = on_thing(subject, view)
            if kind == "segmentation":
                classes, _ = classes_of(found)
                scores.append(class_miou(person_or_not(thing), person_or_not(classes == PERSON)))
            elif kind == "normal":
                scores.append(normal_median_deg(sample(subject, kind, view), found, thing))
            else:
                scores.append(depth_correlation(sample(subject, kind, view), found))
    return mean(scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four views of each subject instead of twenty")
    views = QUICK_VIEWS if parser.parse_args().quick else VIEWS
    figures = {
        "depth_correlation": embedded("depth", views),
        "segmentation_miou": embedded("segmentation", views),
        "normal_median_deg": embedded("normal", views),
        "pose_pck": pose(views),
    }
    print(json.dumps({name: None if score is None else round(score, 4) for name, score in figures.items()}))
