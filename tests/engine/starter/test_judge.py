"""The arithmetic of the figures, on verdicts made by hand; and what the judge makes of decoded pictures."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from engine.families.starter import PRESET
from engine.starter.corpus import held_out_picture
from engine.starter.judge import Verdict, accuracy, judge_pictures, load_judge
from engine.starter.looks import LOOKS
from engine.starter.pixels import to_tensor
from engine.starter.world import Scene, Thing


def thing(kind: str, colour: str, side: str) -> Thing:
    return Thing(kind=kind, colour=colour, pattern="plain", side=side)  # type: ignore[arg-type]


TWO = Scene(things=(thing("mug", "red", "left"), thing("car", "blue", "right")), setting="beach", seed=0)
ONE = Scene(things=(thing("hat", "pink", "centre"),), setting="snow", seed=0)


def verdict(kinds: tuple[str, str], colours: tuple[str, str], setting: str, look: str) -> Verdict:
    return Verdict(kinds=kinds, colours=colours, setting=setting, look=look)


def test_swapped_things_count_as_seen_but_not_in_place() -> None:
    seen = verdict(("car", "mug"), ("blue", "red"), "beach", "photo")
    scores = accuracy([seen], [(TWO, "photo")])
    assert scores == {"object": 1, "colour": 1, "setting": 1, "look": 1, "left_right": 0}


def test_colour_is_asked_only_where_the_look_shows_it() -> None:
    sketch = verdict(("hat", "hat"), ("black", "black"), "night", "pencil sketch")
    photo = verdict(("hat", "hat"), ("pink", "pink"), "snow", "photo")
    scores = accuracy([sketch, photo], [(ONE, "pencil sketch"), (ONE, "photo")])
    assert scores["colour"] == 1
    assert scores["setting"] == pytest.approx(0.5)


def test_half_of_two_things() -> None:
    seen = verdict(("mug", "mug"), ("red", "red"), "beach", "photo")
    scores = accuracy([seen], [(TWO, "photo")])
    assert scores["object"] == pytest.approx(0.5)
    assert scores["left_right"] == 0


@torch.no_grad()
def test_the_autoencoder_does_not_change_a_look() -> None:
    autoencoder = AutoencoderKL.from_pretrained(PRESET / "vae", torch_dtype=torch.float32)
    asked = [(index, look) for index in range(4) for look in LOOKS]
    pictures = to_tensor(np.stack([held_out_picture(index, look) for index, look in asked]))
    decoded = torch.cat([autoencoder.decode(autoencoder.encode(x[None]).latent_dist.mode()).sample for x in pictures])
    images = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    seen = judge_pictures(load_judge(PRESET), list(images))
    assert np.mean([verdict.look == look for verdict, (_, look) in zip(seen, asked, strict=True)]) >= 0.95
