"""What is in the world, in the words of ADE20K: the nearest of its 150 classes, counted from 0.

Segmentation maps of the starter are coloured like those that published ControlNets are trained on.
"""

import numpy as np

from engine.starter.world import CATALOGUE, Scene

WALL, SKY, FLOOR, GRASS, SIDEWALK, PERSON, EARTH, TABLE, SAND = 0, 2, 3, 9, 11, 12, 13, 15, 46
UNKNOWN = 255  # none that anyone could say
THINGS = {
    "person": PERSON,
    "car": 20,
    "chair": 19,
    "sofa": 23,
    "lamp": 36,
    "box": 41,
    "bottle": 98,
    "ball": 119,
    "vase": 135,
    "cactus": 17,  # plant
    "hat": 92,  # apparel
    "boot": 92,
    "teapot": 125,  # pot
    "bowl": 142,  # plate
    "mug": 147,  # glass
    "chicken": 126,  # animal
    "cupcake": 120,  # food
}
# Behind and below, by setting.
SURROUNDINGS = {
    "studio": (WALL, FLOOR),
    "table": (WALL, TABLE),
    "beach": (SKY, SAND),
    "meadow": (SKY, GRASS),
    "night": (SKY, SIDEWALK),
    "brick": (WALL, SIDEWALK),
    "snow": (SKY, EARTH),
}


def classes_of(shown: Scene, *, sculptures: bool = False) -> np.ndarray:
    """ADE20K's class of each value of a scene's segmentation, uint8. With `sculptures` these are in the stead of the
    catalogue's things, and their class is unknown."""
    things = [UNKNOWN if sculptures and thing.kind in CATALOGUE else THINGS[thing.kind] for thing in shown.things]
    return np.array([*SURROUNDINGS[shown.setting], *things], np.uint8)
