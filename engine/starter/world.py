"""What can be in a scene of the synthetic world, and how scenes are drawn at random.

Knows names and combinations only: nothing about pictures, captions or looks. A `Scene` is a full description;
every continuous variation (proportions, camera, light, hues) follows from its `seed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

PARAMETRIC = ("mug", "bottle", "vase", "bowl", "box", "lamp", "chair", "teapot", "ball", "car", "cactus", "hat")
CATALOGUE = ("sofa", "boot", "chicken", "cupcake")
OBJECTS = (*PARAMETRIC, *CATALOGUE)
PERSON = "person"
COLOURS = {
    "red": (212, 32, 38),
    "orange": (245, 128, 22),
    "yellow": (250, 208, 40),
    "green": (38, 145, 66),
    "blue": (28, 92, 208),
    "purple": (122, 54, 172),
    "pink": (246, 132, 178),
    "brown": (112, 66, 36),
    "black": (30, 30, 34),
    "white": (242, 241, 238),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")
SETTINGS = ("studio", "table", "beach", "meadow", "night", "brick", "snow")
POSES = ("standing", "waving", "arms up", "walking", "arms out", "sitting")

# A tenth of all pairs is never trained on: each object once, each colour once or twice.
HELD_OUT_PAIRS = frozenset(
    {
        ("mug", "purple"),
        ("bottle", "orange"),
        ("vase", "green"),
        ("bowl", "pink"),
        ("box", "blue"),
        ("lamp", "red"),
        ("chair", "yellow"),
        ("teapot", "brown"),
        ("ball", "black"),
        ("car", "pink"),
        ("cactus", "white"),
        ("hat", "blue"),
        ("sofa", "purple"),
        ("boot", "red"),
        ("chicken", "green"),
        ("cupcake", "yellow"),
    }
)

Side = Literal["left", "right", "centre"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object, or a person: then `colour` is the shirt's, `pattern` is plain and `pose` one of `POSES`."""

    kind: str
    colour: str
    pattern: str = "plain"
    side: Side = "centre"
    pose: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One or two things, ordered from left to right, in a setting."""

    things: tuple[Thing, ...]
    setting: str
    seed: int


def sample_scene(rng: np.random.Generator, *, held_out: bool = False, kinds: Sequence[str] = OBJECTS) -> Scene:
    """Draws a scene: 60% one object, 27% two things side by side, 13% one person.

    Objects are drawn evenly from `kinds`; one that stands there twice comes twice as often. No pair of
    `HELD_OUT_PAIRS` ever occurs, unless `held_out`: then at least one does.
    """
    # A person cannot be a held-out pair, so with held_out the two other layouts share the draws.
    one, two = (0.69, 1.0) if held_out else (0.60, 0.87)
    layout = rng.random()
    if layout < one:
        side: Side = _pick(rng, ("centre", "centre", "centre", "left", "right"))
        things = (_object(rng, side, kinds, held_out=held_out),)
    elif layout < two:
        things = _two(rng, kinds, held_out=held_out)
    else:
        things = (_person(rng, _pick(rng, ("centre", "centre", "centre", "left", "right"))),)
    return Scene(things=things, setting=_pick(rng, SETTINGS), seed=int(rng.integers(2**31)))


def _two(rng: np.random.Generator, kinds: Sequence[str], *, held_out: bool) -> tuple[Thing, Thing]:
    sides: tuple[Side, Side] = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    first = _object(rng, sides[0], kinds, held_out=held_out)
    others = [kind for kind in kinds if kind != first.kind]
    second = _person(rng, sides[1]) if rng.random() < 0.1 else _object(rng, sides[1], others)
    return (first, second) if first.side == "left" else (second, first)


def _object(rng: np.random.Generator, side: Side, kinds: Sequence[str], *, held_out: bool = False) -> Thing:
    if held_out:
        kind, colour = _pick(rng, sorted(pair for pair in HELD_OUT_PAIRS if pair[0] in kinds))
    else:
        kind = _pick(rng, kinds)
        colour = _pick(rng, [colour for colour in COLOURS if (kind, colour) not in HELD_OUT_PAIRS])
    pattern = "plain" if rng.random() < 0.5 else _pick(rng, PATTERNS[1:])
    return Thing(kind=kind, colour=colour, pattern=pattern, side=side)


def _person(rng: np.random.Generator, side: Side) -> Thing:
    return Thing(kind=PERSON, colour=_pick(rng, tuple(COLOURS)), side=side, pose=_pick(rng, POSES))


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]
