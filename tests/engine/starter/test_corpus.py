"""The corpus: rows, mirroring, and that what is held out never gets in."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.starter import corpus
from engine.starter.render import render
from engine.starter.world import CATALOGUE, HELD_OUT_PAIRS, OBJECTS, PARAMETRIC, PERSON, Scene, Thing

# The corpus must not change under the weights that were trained on it: names and picture (64 px) of some scenes.
PINNED = {
    0: ("red striped hat left, table, 669652944", "668df2f61b15e33e921f8d144f8d38dd4c81c0c5f580024ee15e53d513c48e9c"),
    1: (
        "purple plain teapot centre, meadow, 1917683759",
        "e19cbdec7d4eb2c9645df7b239f386efc8d3c7db73a0842f1be2b56b18a08935",
    ),
    2: (
        "orange plain lamp right, beach, 1742517849",
        "a8397562b0f1ccc558eb06acf4c1757234eb47bf7b2ce4b9964b315e86403252",
    ),
    3: (
        "brown dotted bottle right, studio, 1797060258",
        "8099607086dd3142e9f44da3fc7d532750924c32824b4dbe3a98a54eb7d876aa",
    ),
    6: (
        "pink checkered cactus centre, brick, 2104871044",
        "3de58a5480dba49c0766a70cbe69d5bb531b034fa8ec13516898d14a6a94f0b1",
    ),
    10: (
        "green plain box left, yellow checkered vase right, beach, 851441250",
        "681d071988a0915891673ce47488e474a50d27df66b36ab74f81b4d208dd9319",
    ),
    11: (
        "green checkered chair left, night, 1337308004",
        "c0d393709f599e5bc0ffdaef332fd2a419aea6f8b53889c597926b0539f7f738",
    ),
    17: (
        "pink plain ball left, pink plain person right walking, beach, 1766011028",
        "b5715b4b9948b66e53e3a7edea7d80932ede9e1b72560e65b9aa6f6bd03284ba",
    ),
    37: (
        "yellow checkered car left, yellow plain mug right, night, 1200843034",
        "69661b6a6790b8f7f405fb5c44225319ceb8b18596be17f884db173d086b3cb6",
    ),
    157: (
        "green striped mug left, purple plain bowl right, meadow, 529555210",
        "3d89b4e5a059bf9d9c4854fe77e28ae1238e6cf98b7b0fa1dc04f43701df8bce",
    ),
    166: (
        "pink plain bottle centre, snow, 704665881",
        "23d020d4e408e74ff4ad0e991c22b38aa3430e7d0805ee515d16552641600f09",
    ),
    6001: (
        "red plain sofa left, beach, 1860298145",
        "fba89bdb5a31d113209f9e444d9b49b867c586c458301527419ef6101e7cc776",
    ),
    6003: (
        "pink plain chicken centre, meadow, 2128463809",
        "57f4dd6d0e4eec040b2ca9f1a68cd44ed2119e68651561c9311dadc1ecd97ee2",
    ),
    6005: (
        "blue plain boot right, brick, 1300856171",
        "a588b63efd8d88faad27e4cfd832683909ba36dc4ec043dd4669114261464e97",
    ),
    6007: (
        "purple plain cupcake centre, brick, 514394394",
        "bcb59821120373c7cb87d8167ebd57a7b07755e7db4e4c2db87030182d65c58c",
    ),
}


def test_mirroring_swaps_sides_and_order_and_undoes_itself() -> None:
    left = Thing(kind="mug", colour="red", pattern="plain", side="left")
    right = Thing(kind="car", colour="blue", pattern="striped", side="right")
    scene = Scene(things=(left, right), setting="beach", seed=3)
    mirror = corpus.mirrored(scene)
    assert [(t.kind, t.side) for t in mirror.things] == [("car", "left"), ("mug", "right")]
    assert corpus.mirrored(mirror) == scene


def test_training_scenes_hold_no_held_out_pair_and_the_others_do() -> None:
    for index in range(300):
        assert not any((t.kind, t.colour) in HELD_OUT_PAIRS for t in corpus.scene(index).things)
        assert any((t.kind, t.colour) in HELD_OUT_PAIRS for t in corpus.scene(index, held_out_pairs=True).things)


def test_a_mirrored_picture_has_mirrored_captions() -> None:
    rows = (row for row in range(300) if corpus.picture(row).scene.things[0].side == "left")
    row = next(row for row in rows if len(corpus.picture(row).scene.things) == 1)
    straight, mirrored = corpus.picture(row).captions(), corpus.picture(row, flipped=True).captions()
    assert len(straight) == len(mirrored) == corpus.CAPTIONS_PER_PICTURE
    assert all("left" in caption and "right" not in caption for caption in straight)
    assert all("right" in caption and "left" not in caption for caption in mirrored)


def test_shards_are_read_as_one_array(tmp_path: Path) -> None:
    per_shard = corpus.SHARD_SCENES * corpus.LOOKS_PER_SCENE
    for shard in range(2):
        np.save(tmp_path / f"{shard:04d}.npy", np.full((per_shard, 4, 4, 3), shard, np.uint8))
    (tmp_path / "0002.part.npy").write_bytes(b"half written")
    read = corpus.Corpus(tmp_path)
    assert len(read) == 2 * per_shard
    assert read[per_shard - 1].max() == 0
    assert read[per_shard].min() == 1


@pytest.mark.parametrize("index", PINNED)
def test_scenes_that_were_trained_on_never_change(index: int) -> None:
    scene = corpus.scene(index)
    words = [" ".join(filter(None, (t.colour, t.pattern, t.kind, t.side, t.pose))) for t in scene.things]
    picture = hashlib.sha256(render(scene, 64).image.tobytes()).hexdigest()
    assert (", ".join([*words, scene.setting, str(scene.seed)]), picture) == PINNED[index]


def kinds(scenes: list[Scene]) -> Counter[str]:
    return Counter(thing.kind for scene in scenes for thing in scene.things if thing.kind != PERSON)


def test_catalogue_kinds_are_half_of_what_the_later_scenes_show() -> None:
    first = corpus.PARAMETRIC_SCENES
    assert set(kinds([corpus.scene(index) for index in range(first)])) == set(PARAMETRIC)
    later = kinds([corpus.scene(index) for index in range(first, corpus.TRAINING_SCENES)])
    assert set(later) == set(OBJECTS)
    assert sum(later[kind] for kind in CATALOGUE) / later.total() == pytest.approx(0.5, abs=0.04)


def test_held_out_scenes_show_all_kinds_evenly() -> None:
    for held_out_pairs in (False, True):
        shown = kinds([corpus.scene(i, held_out=True, held_out_pairs=held_out_pairs) for i in range(3000)])
        assert set(shown) == set(OBJECTS)
        assert max(shown.values()) < 1.35 * min(shown.values())


@pytest.mark.parametrize("index", [0, 10, 17])
def test_a_close_up_shows_its_things_whole_and_large(index: int) -> None:
    window = corpus.close_up_window(corpus.scene(index), np.random.default_rng(index))
    assert window == corpus.close_up_window(corpus.scene(index), np.random.default_rng(index))
    whole = render(corpus.scene(index), 128).segmentation >= corpus.FIRST_THING
    shown = render(corpus.scene(index), 128, window).segmentation >= corpus.FIRST_THING
    # Nothing is cut off, so that the areas differ by the scale alone.
    assert shown.sum() * window.side**2 == pytest.approx(whole.sum(), rel=0.06)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    size = (max(np.ptp(rows), np.ptp(columns)) + 1) / 128
    assert 1 / corpus.CLOSE_UP[1] - 0.05 < size < 1 / corpus.CLOSE_UP[0] + 0.05 or window.side == 1


def test_every_other_person_has_a_close_up() -> None:
    scenes = corpus.close_up_scenes(400)
    with_people = [i for i in range(400) if any(thing.kind == PERSON for thing in corpus.scene(i).things)]
    assert [i for i in scenes if i in with_people] == [i for i in with_people if i % 2 == 0]
    assert [i for i in scenes if i not in with_people] == [i for i in range(0, 400, 4) if i not in with_people]
