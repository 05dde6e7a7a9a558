"""The joints of the rendered people of the samples, exact as the renderer put them, in OpenPose's order."""

import json

import numpy as np

from engine.samples import SAMPLES_FOLDER

PERSON = SAMPLES_FOLDER / "subjects" / "person"
NECK, SHOULDERS_COCO17 = 1, (5, 6)
COCO17 = (0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""COCO's index of each of OpenPose's 18 joints; the neck, which COCO lacks, is set apart."""


def exact_joints() -> dict[str, np.ndarray]:
    """By the name of the picture, (18, 2): x and y in pixels."""
    joints = {}
    for entry in json.loads((PERSON / "keypoints_coco17.json").read_text()):
        coco = np.array(entry["coco17"])
        joints[entry["file"]] = coco[list(COCO17)]
        joints[entry["file"]][NECK] = coco[list(SHOULDERS_COCO17)].mean(axis=0)
    return joints
