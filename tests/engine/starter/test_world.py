from collections import Counter

import numpy as np
import pytest

from engine.starter.captions import caption, full_caption
from engine.starter.looks import COLOURLESS_LOOKS, HELD_OUT_LOOKS, LOOKS
from engine.starter.world import (
    COLOURS,
    HELD_OUT_PAIRS,
    OBJECTS,
    PATTERNS,
    PERSON,
    SETTINGS,
    Scene,
    Thing,
    sample_scene,
)


def held_out_things(scene: Scene) -> int:
    return sum((thing.kind, thing.colour) in HELD_OUT_PAIRS for thing in scene.things)


def test_held_out_pairs_are_a_balanced_tenth() -> None:
    assert len(HELD_OUT_PAIRS) == len(OBJECTS) * len(COLOURS) // 10
    assert {kind for kind, _ in HELD_OUT_PAIRS} == set(OBJECTS)
    assert set(Counter(colour for _, colour in HELD_OUT_PAIRS)) == set(COLOURS)
    assert max(Counter(colour for _, colour in HELD_OUT_PAIRS).values()) == 2


def test_sampled_scenes() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(2000)]
    assert not any(held_out_things(scene) for scene in scenes)
    assert {scene.setting for scene in scenes} == set(SETTINGS)
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == {*OBJECTS, PERSON}
    assert {thing.pattern for thing in things} == set(PATTERNS)

    shared = [scene for scene in scenes if len(scene.things) == 2]
    assert len(shared) / 2000 == pytest.approx(0.27, abs=0.03)
    assert all([thing.side for thing in scene.things] == ["left", "right"] for scene in shared)
    assert all(scene.things[0].kind != scene.things[1].kind for scene in shared)
    alone = [scene for scene in scenes if len(scene.things) == 1 and scene.things[0].kind == PERSON]
    assert len(alone) / 2000 == pytest.approx(0.13, abs=0.03)


def test_held_out_scenes_always_hold_a_pair() -> None:
    rng = np.random.default_rng(1)
    assert all(held_out_things(sample_scene(rng, held_out=True)) >= 1 for _ in range(500))


def test_same_generator_gives_same_scene_and_caption() -> None:
    def draw(seed: int) -> tuple[Scene, str]:
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        return scene, caption(scene, "photo", rng)

    assert [draw(seed) for seed in range(50)] == [draw(seed) for seed in range(50)]


def test_full_caption_names_every_attribute() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        scene = sample_scene(rng)
        for look in (*LOOKS, *HELD_OUT_LOOKS):
            words = full_caption(scene, look)
            for thing in scene.things:
                assert thing.kind in words
                assert thing.side in words
                assert thing.kind == PERSON or thing.pattern in words
                if look not in COLOURLESS_LOOKS:
                    assert thing.colour in words


def test_full_caption_reads_well() -> None:
    scene = Scene(
        things=(
            Thing(kind="mug", colour="orange", pattern="striped", side="left"),
            Thing(kind=PERSON, colour="red", side="right", pose="waving"),
        ),
        setting="beach",
        seed=0,
    )
    assert full_caption(scene, "watercolour") == (
        "a watercolour painting of an orange striped mug on the left and a person in a red shirt waving on the right "
        "at the beach"
    )
    assert full_caption(scene, "blueprint") == (
        "a blueprint of a striped mug on the left and a person waving on the right at the beach"
    )


def test_captions_are_bounded_and_colourless_looks_never_name_colours() -> None:
    rng = np.random.default_rng(3)
    looks = (*LOOKS, *HELD_OUT_LOOKS)
    for index in range(4000):
        scene = sample_scene(rng)
        look = looks[index % len(looks)]
        words = caption(scene, look, rng).replace(",", "").split()
        assert 2 <= len(words) <= 36
        assert all(thing.kind in words for thing in scene.things)
        if look in COLOURLESS_LOOKS:
            assert not set(words) & set(COLOURS)
