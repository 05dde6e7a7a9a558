"""The corpus: rows, mirroring, and that what is held out never gets in."""

from pathlib import Path

import numpy as np

from engine.starter import corpus
from engine.starter.world import HELD_OUT_PAIRS, Scene, Thing


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
