"""The training pictures: scenes rendered once, each as a photo and in two looks, kept in shards on disk.

A shard is a folder-free pair of `.npy` arrays, so that it can be memory-mapped; a shard is complete once it has its
final name. Scene `i` follows from `i` alone, so its captions, depth or joints can be made again at any time. Held-out
pictures come from other seeds and, where asked, from held-out pairs. Knows nothing about models.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from engine.starter.ade20k import classes_of
from engine.starter.captions import caption
from engine.starter.looks import LOOKS, apply_look
from engine.starter.render import Render, Window, render
from engine.starter.sculptures import sculpture
from engine.starter.tracing import Grids
from engine.starter.world import CATALOGUE, OBJECTS, PARAMETRIC, PERSON, Scene, sample_scene

SIZE_PX = 256
# The first scenes know the parametric kinds only, and stay as they are: networks have been trained on them. From there
# on, about every other thing is of a catalogue kind.
PARAMETRIC_SCENES = 6000
TRAINING_SCENES = 8000
SHARD_SCENES = 250
LOOKS_PER_SCENE = 3
CAPTIONS_PER_PICTURE = 6
TRUTH_PX = 128  # side of the kept segmentation, depth and normals
FIRST_THING = 2  # segments from here on are things
CLOSE_UP = (1.1, 1.9)  # a close-up's side, against its things'
SCULPTURES, VIEWS_OF_SCULPTURES = 3200, 8  # pictures, and how many of them show the same two
_TRAIN, _HELD_OUT = 1, 2  # seed families


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A scene in a look, mirrored or not: what a row of the corpus shows. `index` is the row."""

    index: int
    scene: Scene
    look: str
    flipped: bool

    def captions(self) -> list[str]:
        """`CAPTIONS_PER_PICTURE` paraphrases, the same every time."""
        rng = np.random.default_rng((_TRAIN, self.index, int(self.flipped)))
        scene = mirrored(self.scene) if self.flipped else self.scene
        return [caption(scene, self.look, rng) for _ in range(CAPTIONS_PER_PICTURE)]


def mirrored(scene: Scene) -> Scene:
    """The scene as its mirrored picture shows it: sides swapped, things from left to right again."""
    other = {"left": "right", "right": "left", "centre": "centre"}
    return replace(scene, things=tuple(replace(t, side=other[t.side]) for t in reversed(scene.things)))


def scene(index: int, *, held_out: bool = False, held_out_pairs: bool = False) -> Scene:
    """The scene number `index` of the training corpus, or of the held-out one."""
    if held_out or held_out_pairs:
        return sample_scene(np.random.default_rng((_HELD_OUT, index)), held_out=held_out_pairs, kinds=OBJECTS)
    often = len(PARAMETRIC) // len(CATALOGUE)
    kinds = PARAMETRIC if index < PARAMETRIC_SCENES else PARAMETRIC + CATALOGUE * often
    return sample_scene(np.random.default_rng((_TRAIN, index)), kinds=kinds)


def looks_of(index: int) -> tuple[str, ...]:
    """The looks that scene `index` is kept in: always a photo, and two others."""
    rng = np.random.default_rng((_TRAIN, index, 7))
    return ("photo", *rng.permutation(LOOKS[1:])[: LOOKS_PER_SCENE - 1].tolist())


def picture(row: int, *, flipped: bool = False) -> Picture:
    """What row `row` shows: row = scene index * LOOKS_PER_SCENE + place of the look."""
    index, place = divmod(row, LOOKS_PER_SCENE)
    return Picture(index=row, scene=scene(index), look=looks_of(index)[place], flipped=flipped)


def held_out_picture(index: int, look: str) -> np.ndarray:
    """A held-out scene in a look, uint8 (256, 256, 3)."""
    rng = np.random.default_rng((_HELD_OUT, index, 3))
    return apply_look(render(scene(index, held_out=True), SIZE_PX).image, look, rng)


def relative_depth(depth: np.ndarray) -> np.ndarray:
    """Distances (h, w) as depth maps show them, uint8: the inverse, from 0 for the farthest to 255 for the nearest."""
    inverse = 1 / depth
    low, high = inverse.min(), inverse.max()
    return np.round(255 * (inverse - low) / (high - low)).astype(np.uint8)


def _kept(rendered: Render) -> dict[str, np.ndarray]:
    """What is kept of a render's truth, at `TRUTH_PX`."""
    step = len(rendered.image) // TRUTH_PX
    at = np.s_[step // 2 :: step, step // 2 :: step]
    return {
        "segments": rendered.segmentation[at],
        "depth": relative_depth(rendered.depth[at]),
        "normals": np.round((rendered.normals[at] + 1) * 127.5).astype(np.uint8),
    }


def _save(file: Path, array: np.ndarray) -> None:
    np.save(file.with_suffix(".part.npy"), array)
    os.replace(file.with_suffix(".part.npy"), file)


def _render_shard(folder: Path, shard: int) -> int:
    images = np.empty((SHARD_SCENES * LOOKS_PER_SCENE, SIZE_PX, SIZE_PX, 3), np.uint8)
    truths = []
    for offset in range(SHARD_SCENES):
        index = shard * SHARD_SCENES + offset
        rendered = render(scene(index), SIZE_PX)
        truths.append(_kept(rendered))
        for place, look in enumerate(looks_of(index)):
            rng = np.random.default_rng((_TRAIN, index, place, 3))
            images[offset * LOOKS_PER_SCENE + place] = apply_look(rendered.image, look, rng)
    for name in truths[0]:
        np.save(folder / f"{shard:04d}.{name}.npy", np.stack([truth[name] for truth in truths]))
    _save(folder / f"{shard:04d}.npy", images)
    return shard


def close_up_window(shown: Scene, rng: np.random.Generator, grids: Grids | None = None) -> Window:
    """A square around the things of a scene, `CLOSE_UP` times as large as they are."""
    segments = render(shown, 64, grids=grids).segmentation
    ends = []
    for axis in (0, 1):  # columns, then rows
        covered = np.flatnonzero((segments >= FIRST_THING).any(axis=axis))
        ends.append((covered[0] / 64, (covered[-1] + 1) / 64))
    size = max(high - low for low, high in ends)
    side = min(1.0, size * rng.uniform(*CLOSE_UP))
    middle = [(low + high) / 2 + rng.uniform(-0.5, 0.5) * max(0.0, side - size) for low, high in ends]
    left, top = (float(np.clip(place - side / 2, 0, 1 - side)) for place in middle)
    return Window(left=left, top=top, side=side)


def close_up_scenes(scenes: int = TRAINING_SCENES) -> list[int]:
    """Every fourth of the scenes, every other with a person: limbs are the hardest."""
    return [i for i in range(scenes) if i % (2 if any(t.kind == PERSON for t in scene(i).things) else 4) == 0]


def _render_close_up(index: int) -> dict[str, np.ndarray]:
    window = close_up_window(scene(index), np.random.default_rng((_TRAIN, index, 11)))
    rendered = render(scene(index), SIZE_PX, window)
    return {"images": rendered.image, **_kept(rendered)}


@lru_cache(maxsize=1)
def sculpted(group: int) -> Grids:
    """Two sculptures, as grids for all kinds of the catalogue."""
    rng = np.random.default_rng((_TRAIN, group, 13))
    made = [sculpture(rng), sculpture(rng)] * (len(CATALOGUE) // 2)
    return {
        **{key: np.stack([one[key] for one in made]) for key in ("lower", "cell", "hulls")},
        "grids": np.stack([np.stack([one["distances"], one["parts"]]) for one in made]),
    }


def sculpture_scene(index: int) -> Scene:
    """A scene whose things of the catalogue are to be sculptures."""
    return sample_scene(np.random.default_rng((_TRAIN, index, 15)), kinds=CATALOGUE)


def _render_sculptures(index: int) -> dict[str, np.ndarray]:
    shown, grids = sculpture_scene(index), sculpted(index // VIEWS_OF_SCULPTURES)
    window = close_up_window(shown, np.random.default_rng((_TRAIN, index, 17)), grids)
    rendered = render(shown, SIZE_PX, window, grids)
    return {"images": rendered.image, **_kept(rendered)}


def render_close_ups(folder: Path, processes: int = 2) -> None:
    """Render the close-ups and the sculptures, unless they are there."""
    for title, one, indices in (
        ("close-ups", _render_close_up, close_up_scenes()),
        ("sculptures", _render_sculptures, range(SCULPTURES)),
    ):
        if (folder / f"{title}.images.npy").exists():
            continue
        with ProcessPoolExecutor(processes) as pool:
            shown = list(pool.map(one, indices, chunksize=16))
        for name in reversed(shown[0]):  # the pictures last: they say that all is there
            _save(folder / f"{title}.{name}.npy", np.stack([picture[name] for picture in shown]))


def render_corpus(folder: Path, scenes: int, processes: int = 2, nice: int = 0) -> Iterator[int]:
    """Render what is missing of the first `scenes` scenes; yields each finished shard's number."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [s for s in range(scenes // SHARD_SCENES) if not (folder / f"{s:04d}.npy").exists()]
    with ProcessPoolExecutor(processes, initializer=os.nice, initargs=(nice,)) as pool:
        yield from pool.map(_render_shard, [folder] * len(missing), missing)


class Corpus:
    """The finished shards of a folder as one array of pictures, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[np.ndarray] = []
        for shard in range(len(list(folder.glob("????.npy")))):
            self.shards.append(np.load(folder / f"{shard:04d}.npy", mmap_mode="r"))

    def thumbnails(self, side_px: int) -> np.ndarray:
        """All pictures at `side_px`, uint8 (n, side_px, side_px, 3); made once, then kept beside the shards."""
        file = self.folder / f"thumbnails-{side_px}.npy"
        if not file.exists() or len(np.load(file, mmap_mode="r")) != len(self):
            size = (side_px, side_px)
            small = [cv2.resize(self[row], size, interpolation=cv2.INTER_AREA) for row in range(len(self))]
            np.save(file.with_suffix(".part.npy"), np.stack(small))
            os.replace(file.with_suffix(".part.npy"), file)
        return np.load(file)

    @cached_property
    def segments(self) -> np.ndarray:
        """What lies where in each scene, uint8 (scenes, 128, 128): 0 = sky or wall, 1 = ground, 2 + i = `things[i]`."""
        return self._truth("segments")

    @cached_property
    def depth(self) -> np.ndarray:
        """`relative_depth` of each scene, uint8 (scenes, 128, 128)."""
        return self._truth("depth")

    @cached_property
    def normals(self) -> np.ndarray:
        """Normals of each scene, x right, y up, z towards the camera, as 127.5 (n + 1): uint8 (scenes, 128, 128, 3)."""
        return self._truth("normals")

    def _truth(self, name: str) -> np.ndarray:
        return np.concatenate([np.load(file) for file in sorted(self.folder.glob(f"????.{name}.npy"))])

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __getitem__(self, row: int) -> np.ndarray:
        """Row `row`, uint8 (256, 256, 3)."""
        shard, offset = divmod(row, SHARD_SCENES * LOOKS_PER_SCENE)
        return self.shards[shard][offset]


class CloseUps:
    """Photos of the things of some scenes that fill the frame, as products do, with their truth as `Corpus` has it.

    Close up, a limb's normals take up more than two or three places, so that they are not mixed with the wall's.
    """

    def __init__(self, folder: Path, title: Literal["close-ups", "sculptures"]) -> None:
        if title == "close-ups":
            self.classes = [classes_of(scene(index)) for index in close_up_scenes()]
        else:
            self.classes = [classes_of(sculpture_scene(index), sculptures=True) for index in range(SCULPTURES)]
        self.images, self.segments, self.depth, self.normals = (
            np.load(folder / f"{title}.{name}.npy") for name in ("images", "segments", "depth", "normals")
        )

    def __len__(self) -> int:
        return len(self.images)
