"""Skeletons that a person moves: joints from outside within bounds, or read back from a drawn map; one to start with.

People are (18, 3) arrays as in `openpose`: x and y in pixels, and how surely the joint is there. Nothing here looks at
photos.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from engine.controls.openpose import CANVAS_SIDE_PX
from engine.errors import BadSettings

JOINTS = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
    *("right eye", "left eye", "right ear", "left ear"),
)
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""From joint to joint in OpenPose's order: a tree that starts at the neck. The limb has the colour of its number."""
COLOURS = tuple(
    f"#{red:02x}{green:02x}{blue:02x}"
    for red, green, blue in (
        *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
        *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
        *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
    )
)
"""Of the joints, by number. The circle of hues in eighteen equal steps."""
# Someone who stands and faces the camera, as shares of their height; their right is on the left.
STANDING = (
    *((0.5, 0.09), (0.5, 0.2), (0.41, 0.2), (0.37, 0.35), (0.35, 0.49), (0.59, 0.2), (0.63, 0.35), (0.65, 0.49)),
    *((0.45, 0.5), (0.45, 0.73), (0.44, 0.96), (0.55, 0.5), (0.55, 0.73), (0.56, 0.96)),
    *((0.48, 0.07), (0.52, 0.07), (0.455, 0.08), (0.545, 0.08)),
)

MAX_PEOPLE = 20
REACH = 1.0  # how far outside of the picture a joint may lie, as a share of its side
NECK = 1
JOINT_VALUE, LIMB_VALUE = 205, 95  # joints are drawn in full colours, limbs at three fifths of them
HUE_REACH_DEG = 9.0
DISC_PX, MIN_AREA_PX = 7, 6
SAMPLES, SURE_LIMB = 16, 0.6


def people_of(values: object, size: tuple[int, int]) -> list[np.ndarray]:
    """People from plain lists: each with 18 joints, each of them [x, y, how surely].

    Raises: BadSettings for anything else, for too many people, and for joints far outside of the picture.
    """
    if not isinstance(values, list) or not all(_is_person(person) for person in values):
        raise BadSettings("This is no list of people.", "Give 18 joints for each: x, y, and a number from 0 to 1.")
    if len(values) > MAX_PEOPLE:
        raise BadSettings(f"There are {len(values)} people.", f"Use at most {MAX_PEOPLE}.")
    people = [np.array(person, float) for person in values]
    for person in people:
        outside = np.abs(person[:, :2] / size - 0.5).max(axis=1) > 0.5 + REACH
        if far := [JOINTS[i] for i in np.flatnonzero(outside & (person[:, 2] > 0))]:
            raise BadSettings(f"The {far[0]} lies far outside of the picture.", "Move it closer, or remove it.")
    return people


def _is_person(person: object) -> bool:
    return isinstance(person, list) and len(person) == len(JOINTS) and all(_is_joint(joint) for joint in person)


def _is_joint(joint: object) -> bool:
    numbers = isinstance(joint, list) and len(joint) == 3 and all(type(n) in (int, float) for n in joint)
    return numbers and all(map(math.isfinite, joint)) and 0 <= joint[2] <= 1  # type: ignore[arg-type, index]


def standing(size: tuple[int, int], share: float = 0.8) -> np.ndarray:
    """Someone in the middle of a picture of (width, height), who takes this share of its height or width."""
    height_px = share * min(size[1], size[0] / 0.45)
    joints = np.array(STANDING)
    left_top = np.array(size) / 2 - [0.5 * height_px, 0.525 * height_px]
    return np.column_stack([joints * height_px + left_top, np.ones(len(JOINTS))])


def read(drawn: Image.Image) -> list[np.ndarray]:
    """The people in a map that `openpose.draw`, or OpenPose itself, drew: joints by their colour, put together along
    the limbs between them. A joint that no limb ties to a neck is left out."""
    scale = min(1, CANVAS_SIDE_PX / min(drawn.size))
    small = drawn.convert("RGB").resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.BOX)
    hue, value = _hues(np.asarray(small))
    found = [_discs(_near(hue, number) & (value >= JOINT_VALUE)) for number in range(len(JOINTS))]
    people = [{NECK: neck} for neck in found[NECK]]
    for number, (start, end) in enumerate(LIMBS):
        along = _near(hue, number) & (value >= LIMB_VALUE) | (value >= JOINT_VALUE)
        pairs = [
            (_covered(along, person[start], point), who, at)
            for who, person in enumerate(people)
            if start in person
            for at, point in enumerate(found[end])
        ]
        taken: set[int] = set()
        for sure, who, at in sorted(pairs, reverse=True):
            if sure >= SURE_LIMB and end not in people[who] and at not in taken:
                people[who][end] = found[end][at]
                taken.add(at)
    return [_as_array(person) / [scale, scale, 1] for person in people if len(person) > 1]


def _hues(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hue, _, value = np.moveaxis(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL).astype(np.float32), 2, 0)
    return hue * (360 / 255), value


def _near(hue_deg: np.ndarray, number: int) -> np.ndarray:
    apart = np.abs(hue_deg - number * 360 / len(JOINTS))
    return np.minimum(apart, 360 - apart) <= HUE_REACH_DEG


def _discs(mask: np.ndarray) -> list[np.ndarray]:
    """The centres of what is as wide as a joint, x and y: limbs are narrower where they are drawn as bright. If there
    is none, of what is left of joints that others cover."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (DISC_PX, DISC_PX))
    wide = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc)
    if wide.any():
        return list(cv2.connectedComponentsWithStats(wide)[3][1:])
    _, _, statistics, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    small = statistics[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) <= 2 * DISC_PX
    return list(centres[small & (statistics[:, cv2.CC_STAT_AREA] >= MIN_AREA_PX)])


def _covered(mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """The share of the way from one point to another that lies in the mask."""
    columns, rows = np.linspace(start, end, SAMPLES).round().astype(int).T
    return float(mask[rows, columns].mean())


def _as_array(person: dict[int, np.ndarray]) -> np.ndarray:
    joints = np.zeros((len(JOINTS), 3))
    for number, point in person.items():
        joints[number] = [*point, 1]
    return joints


def as_values(people: Sequence[np.ndarray]) -> list[list[list[float]]]:
    """As plain lists: what `people_of` takes, rounded to a hundredth of a pixel."""
    return [person.round(2).tolist() for person in people]
