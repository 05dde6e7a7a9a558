"""Photos in, a report that a person can act on, photos out.

Knows the workspace and single photos (engine/photo.py); nothing of captions' making, training or pages.
"""

import itertools
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from engine.controls.faces import find_faces
from engine.errors import BadArchive, BadDataset, BadImage
from engine.images import CAPTION_ENDING, archive_size, open_image, read_caption, safe_zip_images
from engine.photo import VIEW_SIDE_PX, blur_px, cropped, same_view, suggest_crop
from engine.settings import CropBox
from engine.workspace import Dataset, Photo, Workspace, atomic_write

MAX_PHOTOS = 400
MAX_TRAINABLE = 200
GOOD_COUNT = (10, 25)
MIN_TRAINABLE = 5
SMALL_PX, LARGE_PX = 256, 512
BLURRED_PX = 0.6  # the samples' crisp photos have at most 0.45, and at least 0.64 after a blur of 2 px in 512


Level = Literal["good", "warn", "bad"]
OnPhoto = Callable[[int, int], None]
"""Called before each photo with how many are done, and how many there are in all."""


class Refusal(NamedTuple):
    """A file that did not become a photo, and why."""

    file: str
    reason: str


class Advice(NamedTuple):
    """One sentence of the report, and the ids of the photos it is about (none: about all of them)."""

    level: Level
    text: str
    photos: tuple[str, ...] = ()


# Photos in and out


class _Upload(NamedTuple):
    name: str
    source: Path | bytes
    caption: str


def add_photos(
    workspace: Workspace, dataset_id: str, files: Sequence[Path], on_photo: OnPhoto | None = None
) -> tuple[Dataset, list[Refusal]]:
    """Add pictures and zips of pictures; a NAME.txt beside a NAME.png becomes its caption.

    Every photo is decoded, bounded, turned upright and gets a crop around its subject. What cannot be used is refused
    by itself. Raises: NotFound; BadDataset, before anything is added, when the dataset would exceed `MAX_PHOTOS`.
    """
    total = sum(_count(file) for file in files)
    count = len(workspace.dataset(dataset_id).photos) + total
    if count > MAX_PHOTOS:
        raise BadDataset(
            f"That would make {count} photos.", f"Keep the best: {_good_count()} is right, {MAX_PHOTOS} is the most."
        )
    photos: list[Photo] = []
    refusals: list[Refusal] = []
    done = itertools.count()
    texts = {file.stem: file for file in files if file.suffix.lower() == CAPTION_ENDING}
    for file in files:
        try:
            for upload in _uploads(file, texts):
                if on_photo:
                    on_photo(next(done), total)
                try:
                    photos.append(_photo(workspace, upload))
                except BadImage as error:
                    refusals.append(Refusal(upload.name, str(error)))
        except BadArchive as error:
            refusals.append(Refusal(file.name, str(error)))

    def append(dataset: Dataset) -> Dataset:
        kept = {photo.image: photo for photo in dataset.photos}
        for photo in photos:
            if photo.image in kept:
                refusals.append(Refusal(photo.file, f"{photo.file} is already there, as {kept[photo.image].file}."))
            kept.setdefault(photo.image, photo)
        return dataset.replace(photos=tuple(kept.values()))

    return workspace.update_dataset(dataset_id, append), refusals


def _is_zip(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def _count(file: Path) -> int:
    """How many photos a file may become; 0 for a bad zip, which is refused by itself later."""
    if _is_zip(file):
        with suppress(BadArchive):
            return archive_size(file)
    return int(not _is_zip(file) and file.suffix.lower() != CAPTION_ENDING)


def _uploads(file: Path, texts: dict[str, Path]) -> Iterator[_Upload]:
    if _is_zip(file):
        yield from (_Upload(*packed) for packed in safe_zip_images(file))
    elif file.suffix.lower() != CAPTION_ENDING:
        text = texts.get(file.stem, file.with_suffix(CAPTION_ENDING))
        yield _Upload(file.name, file, read_caption(text.read_bytes()) if text.exists() else "")


def _photo(workspace: Workspace, upload: _Upload) -> Photo:
    image = open_image(upload.source, upload.name)
    content_hash = workspace.keep_image(image)
    return Photo(
        id=content_hash[:12],  # a dataset holds an image once
        file=upload.name,
        image=content_hash,
        width_px=image.width,
        height_px=image.height,
        crop=suggest_crop(image),
        caption=upload.caption,
    )


def export_zip(workspace: Workspace, dataset: Dataset, path: Path) -> None:
    """Whole photos as PNG with captions beside them as .txt, which most trainers read, and `add_photos` too."""
    with atomic_write(path) as staged, zipfile.ZipFile(staged, "w") as archive:
        for number, photo in enumerate(dataset.photos, start=1):
            name = re.sub(r"[^\w-]+", "_", Path(photo.file).stem)
            stem = f"{number:03d}_{name}"
            archive.write(workspace.image_path(photo.image), f"{stem}.png")
            archive.writestr(f"{stem}{CAPTION_ENDING}", photo.caption)


# The report


def require_trainable(dataset: Dataset) -> None:
    """Photos without captions can be trained on: trigger and class stand in. Raises: BadDataset."""
    count = len(dataset.photos)
    if count < MIN_TRAINABLE:
        raise BadDataset(f"{_photos(count)}: too few to train on.", f"Add more; {_good_count()} is right.")
    if count > MAX_TRAINABLE:
        raise BadDataset(
            f"{_photos(count)}: too many to train on.",
            f"Keep the best; {_good_count()} is right, {MAX_TRAINABLE} is the most.",
        )


def check(workspace: Workspace, dataset: Dataset, on_photo: OnPhoto | None = None) -> list[Advice]:
    """What is good about the photos and what to mend, each with the photos it is about; the headline comes first."""
    views: dict[Photo, _View] = {}
    for done, photo in enumerate(dataset.photos):
        if on_photo:
            on_photo(done, len(dataset.photos))
        views[photo] = _view(workspace.image_path(photo.image), photo.crop)
    return [
        _headline(len(dataset.photos)),
        *_check_size(dataset.photos),
        *_check_blur(views),
        *_check_twins(workspace, views),
        *_check_faces(views),
        *_check_captions(dataset),
    ]


class _View(NamedTuple):
    """What was measured in a photo's square, and a small picture of it."""

    blur_px: float
    faces: int
    thumbnail: Image.Image


@lru_cache(maxsize=4 * MAX_PHOTOS)
def _view(image: Path, crop: CropBox | None) -> _View:
    """Safe to cache by path, which holds the hash of the content."""
    with Image.open(image) as photo:
        square = cropped(photo, crop, VIEW_SIDE_PX)
    return _View(blur_px(square), len(find_faces(square)), square.resize((64, 64), Image.Resampling.BOX))


@lru_cache(maxsize=100 * MAX_PHOTOS)
def _twins(one: tuple[Path, CropBox | None], other: tuple[Path, CropBox | None]) -> bool:
    return same_view(_view(*one).thumbnail, _view(*other).thumbnail)


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _good_count() -> str:
    return "{} to {}".format(*GOOD_COUNT)


def _named(photos: Sequence[Photo]) -> str:
    """The photos' file names, the first three of many."""
    names = [photo.file for photo in photos]
    if len(names) > 3:
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _advice(level: Level, photos: Sequence[Photo], text: Callable[[str], str]) -> list[Advice]:
    """One advice about some photos, with a text that names them, or nothing when there are none."""
    return [Advice(level, text(_named(photos)), tuple(photo.id for photo in photos))] if photos else []


def _headline(count: int) -> Advice:
    fewest, most = GOOD_COUNT
    if count == 0:
        return Advice("bad", f"No photos yet. Add {_good_count()} of one subject.")
    if count < MIN_TRAINABLE:
        return Advice(
            "bad", f"{_photos(count)}: too few. Add at least {fewest - count} more; {_good_count()} is right."
        )
    if count < fewest:
        return Advice("warn", f"{_photos(count)}: enough to try. {_good_count()} gives a better likeness.")
    if count <= most:
        return Advice("good", f"{_photos(count)}: good.")
    if count <= MAX_TRAINABLE:
        return Advice("warn", f"{_photos(count)}: more than needed. The best {_good_count()} are right.")
    return Advice("bad", f"{_photos(count)}: too many. Keep the best {_good_count()}.")


def _check_size(photos: Sequence[Photo]) -> list[Advice]:
    def side_px(photo: Photo) -> int:
        return photo.crop.side_px if photo.crop else min(photo.width_px, photo.height_px)

    small = [photo for photo in photos if side_px(photo) < SMALL_PX]
    medium = [photo for photo in photos if SMALL_PX <= side_px(photo) < LARGE_PX]
    return [
        *_advice("bad", small, lambda names: f"Under {SMALL_PX} px: {names}. Widen the square, or use a larger photo."),
        *_advice(
            "good",
            medium,
            lambda names: f"Under {LARGE_PX} px: {names}. Enough for the starter, soft for larger bases.",
        ),
    ]


def _check_blur(views: dict[Photo, _View]) -> list[Advice]:
    blurred = [photo for photo, view in views.items() if view.blur_px > BLURRED_PX]
    return _advice("warn", blurred, lambda names: f"Blurred: {names}. Replace with sharp ones, or leave out.")


def _check_twins(workspace: Workspace, views: dict[Photo, _View]) -> list[Advice]:
    """Sharpest first, every photo joins the first that it is a twin of."""
    groups: list[list[Photo]] = []
    for photo in sorted(views, key=lambda p: views[p].blur_px):
        key = workspace.image_path(photo.image), photo.crop
        for group in groups:
            if _twins((workspace.image_path(group[0].image), group[0].crop), key):
                group.append(photo)
                break
        else:
            groups.append([photo])
    return [
        Advice(
            "warn",
            f"Nearly the same: {_named(group)}. Keep {group[0].file}, the sharpest.",
            tuple(photo.id for photo in group),
        )
        for group in groups
        if len(group) > 1
    ]


def _check_faces(views: dict[Photo, _View]) -> list[Advice]:
    several = [photo for photo, view in views.items() if view.faces > 1]
    one = [photo for photo, view in views.items() if view.faces == 1]
    of_a_person = len(one) + len(several) >= len(views) / 2
    return [
        *_advice("warn", several, lambda names: f"Several faces: {names}. Crop to one person, or leave out."),
        *_advice(
            "warn",
            [] if of_a_person else one,
            lambda names: f"A face in {names}, while most photos show none. Crop it away if it is not the subject.",
        ),
    ]


def _check_captions(dataset: Dataset) -> list[Advice]:
    bare = [photo for photo in dataset.photos if not photo.caption.strip()]
    if len(bare) == len(dataset.photos):
        return [Advice("good", "No captions yet: the next step writes them.")] if bare else []
    trigger = re.compile(rf"(?<!\w){re.escape(dataset.trigger)}(?!\w)", re.IGNORECASE)
    silent = [photo for photo in dataset.photos if photo.caption.strip() and not trigger.search(photo.caption)]
    return [
        *_advice("warn", bare, lambda names: f"No caption: {names}."),
        *_advice(
            "warn",
            silent if dataset.trigger else [],
            lambda names: f"Without the trigger word {dataset.trigger}: the caption of {names}.",
        ),
    ]
