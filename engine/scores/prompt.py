"""Prompt: whether a picture shows what its prompt names.

CLIP compares any picture with any text (CLIPScore, Hessel et al. 2021). Offline, the starter's judge says how surely it
sees each thing, colour, setting and look of its world that the prompt names; that holds for pictures of the starter.
Nothing here knows of generation.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.cache import ModelCache
from engine.scores.networks import CLIP, at_hand, clip_similarity, judged
from engine.scores.score import Score, clipped

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CLIP_SCALE = 2.5  # Hessel et al. 2021: cosines of pictures and their captions are about 0.3
CEILINGS = {"clip": 0.76, "starter": 0.95}
"""2.5 times the cosine of 0.305 that the best methods reach on DreamBench (Ruiz et al. 2023), whose real photos have no
prompts; and held-out renders with their captions, by `python -m tests.benchmarks.scores`."""

OTHER_WORDS = {
    "watercolor": "watercolour",
    "pencil drawing": "pencil sketch",
    "sepia": "vintage",
    "photograph": "photo",
}
COLOUR_REACH = 4  # words between a colour and its thing, as in "red shirt" of a person


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a prompt names of the starter's world. `things` are kind, colour and side in the order of the text, the last
    two empty where it does not say."""

    things: tuple[tuple[str, str, str], ...]
    setting: str = ""
    look: str = ""


def named_in(prompt: str) -> Named:
    """Read a prompt. Words of another world are passed over; of three or more things, the first two count."""
    from engine.starter.judge import ALL_LOOKS, COLOUR_NAMES, KINDS
    from engine.starter.world import SETTINGS

    text = prompt.lower()
    for other, usual in OTHER_WORDS.items():
        text = re.sub(rf"\b{other}", usual, text)
    words = re.findall(r"[a-z]+", text)
    places = [i for i, word in enumerate(words) if _singular(word, KINDS) and words[i - 1 : i] != ["no"]][:2]
    borders = [-1, *places, len(words)]
    things = []
    for number, place in enumerate(places, 1):
        before = words[max(borders[number - 1] + 1, place - COLOUR_REACH) : place]
        after = words[place + 1 : borders[number + 1]]
        kind = _singular(words[place], KINDS)
        colours = [word for word in reversed(before) if word in COLOUR_NAMES]
        if kind == "person":  # wears it: "person in a red shirt"
            colours = [word for word in after[:COLOUR_REACH] if word in COLOUR_NAMES] or colours
        sides = [word for word in after if word in ("left", "right")]
        things.append((kind, (*colours, "")[0], (*sides, "")[0]))
    looks = sorted((look for look in ALL_LOOKS if re.search(rf"\b{look}", text)), key=lambda look: look == "photo")
    return Named(
        things=tuple(things),
        setting=next((setting for setting in SETTINGS if any(word.startswith(setting) for word in words)), ""),
        look=(*looks, "")[0],
    )


def _singular(word: str, kinds: tuple[str, ...]) -> str:
    return next((kind for kind in kinds if word in (kind, f"{kind}s", f"{kind}es")), "")


def named_kinds(prompt: str) -> list[str]:
    return [kind for kind, _, _ in named_in(prompt).things]


def seen_of(named: Named, logits: "dict[str, Tensor]") -> dict[str, float]:
    """How surely each thing named is seen in the one picture of `logits`, from 0 to 1, by its words.

    Two things are looked for left and right of each other: where the prompt says, else whichever way fits better.
    """
    from engine.starter.judge import ALL_LOOKS, COLOUR_NAMES, KINDS
    from engine.starter.world import SETTINGS

    probability = {head: values[0].softmax(dim=0).tolist() for head, values in logits.items() if head != "embed"}

    def at(side: str, kind: str, colour: str) -> dict[str, float]:
        seen = {kind: probability[f"{side}_kind"][KINDS.index(kind)]}
        return seen | (
            {f"{colour} {kind}": probability[f"{side}_colour"][COLOUR_NAMES.index(colour)]} if colour else {}
        )

    def placed(sides: tuple[str, str]) -> dict[str, float]:
        return {
            f"{word} on the {side}" if len(sides) > 1 else word: value
            for side, (kind, colour, _) in zip(sides, named.things, strict=True)
            for word, value in at(side, kind, colour).items()
        }

    seen: dict[str, float] = {}
    if len(named.things) == 1:
        [(kind, colour, _)] = named.things
        left, right = at("left", kind, colour), at("right", kind, colour)
        seen |= {word: (left[word] + right[word]) / 2 for word in left}
    elif named.things:
        orders = [("left", "right"), ("right", "left")]
        said = [
            o for o in orders if all(side in ("", there) for there, (_, _, side) in zip(o, named.things, strict=True))
        ]
        seen |= max((placed(order) for order in said or orders), key=lambda one: sum(one.values()))
    if named.setting:
        seen[named.setting] = probability["setting"][SETTINGS.index(named.setting)]
    if named.look:
        seen[named.look] = probability["look"][ALL_LOOKS.index(named.look)]
    return seen


def prompt_kept(
    picture: "Image", prompt: str, *, of_starter: bool = True, styled: bool = False, models: ModelCache | None = None
) -> Score | None:
    """How well `picture` shows what `prompt` says; None where nothing here can tell.

    Args:
        of_starter: the picture was drawn by the starter, whose world the judge knows.
        styled: a reference decides the look, whatever the prompt says of it.
    """
    models = models or ModelCache()
    if of_starter:
        seen = seen_of(named_in(prompt), judged([picture], models))
        if styled:
            seen = {word: value for word, value in seen.items() if word != named_in(prompt).look}
        if not seen:
            return None
        missed = [word for word, value in seen.items() if value < 0.5]
        return Score(
            name="prompt",
            title="Prompt",
            value=sum(seen.values()) / len(seen),
            raw=sum(seen.values()) / len(seen),
            method="how surely the starter's judge sees what the prompt names, mean",
            ceiling=CEILINGS["starter"],
            note=f"Not seen in it: {', '.join(missed)}." if missed else "",
        )
    if not at_hand(CLIP):
        return None
    raw = clip_similarity(picture, prompt, models)
    return Score(
        name="prompt",
        title="Prompt",
        value=clipped(CLIP_SCALE * raw),
        raw=raw,
        worst=-1.0,
        method="CLIPScore, 2.5 times the cosine of picture and text (CLIP ViT-B/32)",
        ceiling=CEILINGS["clip"],
    )
