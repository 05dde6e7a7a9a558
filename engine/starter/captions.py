"""Dense, exact English captions of a scene in a look.

Knows scenes and the names of looks, nothing about pixels. `caption` paraphrases and sometimes drops a clause, for
training; `full_caption` is the canonical sentence with every attribute, for evaluation.
"""

from collections.abc import Sequence

import numpy as np

from engine.starter.looks import COLOURLESS_LOOKS
from engine.starter.world import PERSON, Scene, Thing

_LOOKS = {
    "photo": ("a photo of", "a photograph of", "a product photo of"),
    "watercolour": ("a watercolour painting of", "a watercolour of", "a watercolor painting of"),
    "pencil sketch": ("a pencil sketch of", "a pencil drawing of"),
    "pixel art": ("pixel art of", "a pixel art picture of"),
    "neon": ("a neon picture of", "glowing neon art of", "a neon sign of"),
    "vintage": ("a vintage photo of", "an old sepia photo of", "a vintage photograph of"),
    "pop art": ("a pop art picture of", "pop art of", "a pop art print of"),
    "blueprint": ("a blueprint of", "a blueprint drawing of"),
    "oil painting": ("an oil painting of", "an oil painting on canvas of"),
    "pastel": ("a pastel drawing of", "a soft pastel picture of"),
}
_SETTINGS = {
    "studio": ("in a studio", "on a studio backdrop", "in a photo studio"),
    "table": ("on a wooden table", "on a wooden table with a wall behind", "on a table made of wood"),
    "beach": ("at the beach", "on a sandy beach", "on the beach by the sea"),
    "meadow": ("in a meadow", "in a grassy meadow", "on the grass of a meadow"),
    "night": ("at night", "at night under the moon", "under a night sky"),
    "brick": ("in front of a brick wall", "by a brick wall", "against a brick wall"),
    "snow": ("in the snow", "in a snowy landscape", "on snow"),
}
_PATTERNS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripes"),
    "dotted": ("dotted", "dots"),
    "checkered": ("checkered", "checks"),
}
_POSES = {
    "standing": ("standing", "standing still"),
    "waving": ("waving", "waving one hand"),
    "arms up": ("with both arms up", "with raised arms"),
    "walking": ("walking",),
    "arms out": ("with arms stretched out", "with arms out to the sides"),
    "sitting": ("sitting", "sitting down"),
}
_SIDES = {
    "left": ("on the left", "to the left", "on the left side"),
    "right": ("on the right", "to the right", "on the right side"),
    "centre": ("in the centre", "in the middle", "in the center"),
}
# Held-out looks, and looks that a user teaches, have no wording of their own.
_DEFAULT_LOOK = ("a {} picture of",)


def full_caption(scene: Scene, look: str) -> str:
    """The canonical caption, with every attribute that the look shows."""
    colourless = look in COLOURLESS_LOOKS
    things = [
        f"{_article(noun)} {noun} {_SIDES[thing.side][0]}"
        for thing in scene.things
        for noun in [_full_noun(thing, colourless)]
    ]
    return f"{_look_words(look)[0]} {' and '.join(things)} {_SETTINGS[scene.setting][0]}"


def caption(scene: Scene, look: str, rng: np.random.Generator, *, name_look: bool = True) -> str:
    """A paraphrase of the canonical caption: other words, other order, sometimes a clause dropped.

    Without `name_look` it says what is there but not in which look.
    """
    colourless = look in COLOURLESS_LOOKS
    phrases = [_thing_phrase(thing, colourless, rng) for thing in scene.things]
    joint = _pick(rng, (" and ", " and ", " next to ")) if len(phrases) == 2 else ""
    # "A on the left and B on the right", or the other way round.
    if len(phrases) == 2 and rng.random() < 0.25:
        phrases.reverse()
    subject = joint.join(phrases)

    setting = "" if rng.random() < 0.1 else _pick(rng, _SETTINGS[scene.setting])
    unnamed = not name_look or (look == "photo" and rng.random() < 0.1)
    start = "" if unnamed else _pick(rng, _look_words(look))
    order = rng.random()
    if setting and order < 0.15:
        text = f"{setting}, {start} {subject}" if start else f"{setting}, {subject}"
    elif start and order < 0.27:
        text = f"{subject} {setting}, {start.removesuffix(' of')}"
    else:
        comma = "," if setting and rng.random() < 0.25 else ""
        text = f"{start} {subject}{comma} {setting}"
    return " ".join(text.split()).replace(" ,", ",")


def _thing_phrase(thing: Thing, colourless: bool, rng: np.random.Generator) -> str:
    noun = _person(thing, colourless, rng) if thing.kind == PERSON else _object(thing, colourless, rng)
    phrase = f"{_article(noun)} {noun}"
    if thing.side == "centre" and rng.random() < 0.5:
        return phrase
    return f"{phrase} {_pick(rng, _SIDES[thing.side])}"


def _object(thing: Thing, colourless: bool, rng: np.random.Generator) -> str:
    colour = "" if colourless or rng.random() < 0.05 else thing.colour
    adjective, plural = _PATTERNS[thing.pattern]
    named = rng.random() < (0.35 if thing.pattern == "plain" else 0.9)
    if not named:
        return f"{colour} {thing.kind}".strip()
    if thing.pattern == "plain":
        return f"{_pick(rng, (adjective, plural))} {colour} {thing.kind}".replace("  ", " ")
    wording = rng.random()
    if wording < 0.5:
        return f"{colour} {adjective} {thing.kind}".strip()
    if wording < 0.75:
        return f"{adjective} {colour} {thing.kind}".replace("  ", " ")
    return f"{colour} {thing.kind} with {plural}".strip()


def _person(thing: Thing, colourless: bool, rng: np.random.Generator) -> str:
    clothed = not colourless and rng.random() >= 0.05
    shirt = f" {_pick(rng, ('in', 'wearing'))} a{'n' if thing.colour == 'orange' else ''} {thing.colour} shirt"
    pose = "" if rng.random() < 0.1 else " " + _pick(rng, _POSES[thing.pose or "standing"])
    return "person" + (shirt if clothed else "") + pose


def _full_noun(thing: Thing, colourless: bool) -> str:
    if thing.kind == PERSON:
        shirt = "" if colourless else f" in {_article(thing.colour)} {thing.colour} shirt"
        return f"person{shirt} {_POSES[thing.pose or 'standing'][0]}"
    words = (thing.pattern, thing.kind) if colourless else (thing.colour, thing.pattern, thing.kind)
    return " ".join(words)


def _look_words(look: str) -> Sequence[str]:
    return _LOOKS.get(look) or tuple(words.format(look) for words in _DEFAULT_LOOK)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
