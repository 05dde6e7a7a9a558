"""Everything a person keeps, on disk: images, datasets, LoRAs, pictures and job folders. Only this module writes there.

    images/ab/abcd....png        content-addressed: the name is the SHA-256 of the file
    thumbnails/abcd....-256.webp made on first use
    datasets/<id>/record.json
    loras/<id>/record.json, lora.safetensors
    pictures/<id>.png            the recipe travels inside
    pictures/<id>.scores.json    how well it kept what was asked, if that was measured
    jobs/<token>/                see engine/jobs.py
    index.sqlite                 the pictures, newest first; rebuilt from the files whenever it is missing or damaged

Every file and folder appears whole or not at all, so a kill at any moment leaves the workspace readable. Every id that
could come from outside is held against a strict pattern before it becomes part of a path. Nothing here knows of models.
"""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from engine.errors import NoRoom, NotFound
from engine.settings import CropBox, Settings

RECIPE_CHUNK = "tripod"
"""The PNG text chunk that holds a picture's recipe as JSON."""

Record = TypeVar("Record", bound=Settings)

_HASH = re.compile(r"[0-9a-f]{64}")
_SLUG = re.compile(r"[a-z0-9-]{1,60}")
_PICTURE = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{8}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

_STAGED = ".staged-"
_STAGED_LIFE_S = 3600


@dataclass(frozen=True, kw_only=True)
class Photo(Settings):
    """One training photo: `file` is its name as uploaded, `image` the content hash of the whole upright photo."""

    id: str
    file: str
    image: str
    width_px: int
    height_px: int
    crop: CropBox | None
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Dataset(Settings):
    """Photos of one subject, with the trigger word and class that stand in front of every caption."""

    id: str
    name: str
    created: str
    trigger: str = "sks"
    class_name: str = ""
    photos: tuple[Photo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoraRecord(Settings):
    """A LoRA file kept here: what it fits, what it was taught, and the TrainSettings behind it (`{}` if imported)."""

    id: str
    name: str
    family: str
    base: str
    trigger: str
    class_name: str
    sha256: str
    rank: int
    created: str
    samples: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PictureRecord(Settings):
    """A generated picture: when it was made and the recipe that made it. The file is `Workspace.picture_path(id)`."""

    id: str
    created: str
    recipe: dict[str, Any]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a file name beside `path` to write to; it replaces `path` after the body, or is dropped if that raises."""
    staged = path.with_name(f"{_STAGED}{secrets.token_hex(8)}-{path.name}")
    try:
        yield staged
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as staged:
        staged.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value, ensure_ascii=False, indent=1).encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def append_line(path: Path, line: str) -> None:
    """Append one line in one write. A line that a kill tore before is closed first, so that it spoils no other."""
    with path.open("ab+") as file:
        torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write(("\n" if torn else "").encode() + line.encode() + b"\n")


def now_utc() -> str:
    """The time in ISO 8601, UTC, to the microsecond; sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def slug(name: str) -> str:
    """`name` in lower-case ASCII letters and digits with hyphens between, at most 40 characters; never empty."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name)[:40].strip("-") or "unnamed"


class Workspace:
    """One person's folder. Threads and processes may share it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()
        for name in ("images", "thumbnails", "datasets", "loras", "pictures", "jobs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._datasets_lock = threading.Lock()
        self._index = _PictureIndex(self.root / "index.sqlite", self.root / "pictures")

    def _sweep(self) -> None:
        """Remove what a kill left half-written. Younger leftovers may belong to a trainer that is writing now."""
        for leftover in self.root.rglob(f"{_STAGED}*"):
            with suppress(FileNotFoundError):  # the trainer may have finished it just now
                if leftover.stat().st_mtime < time.time() - _STAGED_LIFE_S:
                    _remove(leftover)

    def require_room(self, needed_mb: float = 200) -> None:
        """Raises: NoRoom when the disk of the workspace has less than `needed_mb` left."""
        free_mb = shutil.disk_usage(self.root).free / 1e6
        if free_mb < needed_mb:
            raise NoRoom(
                f"The disk has {free_mb:.0f} MB left, and this needs {needed_mb:.0f} MB.",
                "Delete pictures, datasets or LoRAs that you no longer need.",
            )

    # Images

    def keep_image(self, image: Image.Image) -> str:
        """Keep a copy as PNG, RGB or L, without metadata; returns its content hash. Equal pixels give equal hashes."""
        pixels = image.copy() if image.mode in ("RGB", "L") else image.convert("RGB")
        pixels.info = {}
        png = io.BytesIO()
        pixels.save(png, "PNG", compress_level=1)
        content_hash = hashlib.sha256(png.getvalue()).hexdigest()
        path = self._image_path(content_hash)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, png.getvalue())
        return content_hash

    def has_image(self, content_hash: str) -> bool:
        return _HASH.fullmatch(content_hash) is not None and self._image_path(content_hash).exists()

    def image_path(self, content_hash: str) -> Path:
        """Raises: NotFound."""
        if not self.has_image(content_hash):
            raise NotFound(f"The image {content_hash[:12]!r} is not in this workspace.", "Add the picture again.")
        return self._image_path(content_hash)

    def image(self, content_hash: str) -> Image.Image:
        """Raises: NotFound."""
        with Image.open(self.image_path(content_hash)) as image:
            image.load()
        return image

    def keep_origin(self, content_hash: str, origin: dict[str, Any]) -> None:
        """Keep beside a map how it was taken. Raises: NotFound."""
        write_json(self.image_path(content_hash).with_suffix(".json"), origin)

    def origin(self, content_hash: str) -> dict[str, Any]:
        """How a map was taken; empty where that is not known, as of a drawn or uploaded one. Raises: NotFound."""
        path = self.image_path(content_hash).with_suffix(".json")
        return read_json(path) if path.exists() else {}

    def thumbnail_path(self, content_hash: str, side_px: int = 256) -> Path:
        """The image as WebP with its longer side at most `side_px`. Raises: NotFound."""
        return self._thumbnail(self.image_path(content_hash), side_px)

    def _thumbnail(self, png: Path, side_px: int) -> Path:
        path = self.root / "thumbnails" / f"{png.stem}-{side_px}.webp"
        if not path.exists():
            with Image.open(png) as image:
                image.thumbnail((side_px, side_px))
                with atomic_write(path) as staged:
                    image.save(staged, "WEBP", quality=85)
        return path

    def _image_path(self, content_hash: str) -> Path:
        return self.root / "images" / content_hash[:2] / f"{content_hash}.png"

    # Datasets

    def create_dataset(self, name: str, *, trigger: str = "sks", class_name: str = "") -> Dataset:
        values: dict[str, Any] = {"name": name, "created": now_utc(), "trigger": trigger, "class_name": class_name}
        return Dataset(id=self._publish("datasets", name, values), **values)

    def datasets(self) -> list[Dataset]:
        """Newest first."""
        return self._records("datasets", Dataset)

    def dataset(self, dataset_id: str) -> Dataset:
        """Raises: NotFound."""
        return Dataset.from_dict(self._record("datasets", dataset_id))

    def save_dataset(self, dataset: Dataset) -> None:
        """Raises: NotFound when it was deleted meanwhile."""
        values = dataset.to_dict()
        write_json(self._folder("datasets", values.pop("id")) / "record.json", values)

    def update_dataset(self, dataset_id: str, change: Callable[[Dataset], Dataset]) -> Dataset:
        """Read, change and save without losing what another thread saved in between. Raises: NotFound."""
        with self._datasets_lock:
            dataset = change(self.dataset(dataset_id))
            self.save_dataset(dataset)
            return dataset

    def delete_dataset(self, dataset_id: str) -> None:
        """The images stay: recipes and other datasets may name them. Raises: NotFound."""
        _remove(self._folder("datasets", dataset_id))

    # LoRAs

    def add_lora(
        self,
        file: Path,
        *,
        name: str,
        family: str,
        base: str,
        trigger: str,
        class_name: str,
        rank: int,
        samples: tuple[str, ...] = (),
        settings: dict[str, Any] | None = None,
        created: str | None = None,
        for_others: Path | None = None,
    ) -> LoraRecord:
        """Keep a copy of a LoRA file that was checked before; its id is a slug of its name. `for_others` is the same in
        the format that other programs read, to be downloaded."""
        values = {
            "name": name,
            "family": family,
            "base": base,
            "trigger": trigger,
            "class_name": class_name,
            "sha256": _sha256(file),
            "rank": rank,
            "created": created or now_utc(),
            "samples": samples,
            "settings": settings or {},
        }
        files = {"lora.safetensors": file} | ({"for-others.safetensors": for_others} if for_others else {})
        return LoraRecord(id=self._publish("loras", name, values, files), **values)

    def loras(self) -> list[LoraRecord]:
        """Newest first."""
        return self._records("loras", LoraRecord)

    def lora(self, lora_id: str) -> LoraRecord:
        """Raises: NotFound."""
        return LoraRecord.from_dict(self._record("loras", lora_id))

    def lora_path(self, lora_id: str) -> Path:
        """Raises: NotFound."""
        return self._folder("loras", lora_id) / "lora.safetensors"

    def lora_download(self, lora_id: str) -> Path:
        """The file for other programs. Raises: NotFound."""
        for_others = self._folder("loras", lora_id) / "for-others.safetensors"
        return for_others if for_others.exists() else self.lora_path(lora_id)

    def delete_lora(self, lora_id: str) -> None:
        """Raises: NotFound."""
        _remove(self._folder("loras", lora_id))

    # Records: a folder with record.json, whose name is the id

    def _publish(self, kind: str, name: str, values: dict[str, Any], files: dict[str, Path] | None = None) -> str:
        """Fill a hidden folder, then rename it to the first free id made from `name`; returns the id."""
        staged = self.root / kind / f"{_STAGED}{secrets.token_hex(8)}"
        staged.mkdir()
        write_json(staged / "record.json", values)
        for file_name, source in (files or {}).items():
            shutil.copyfile(source, staged / file_name)
        record_id = slug(name)
        while True:
            try:
                staged.rename(self.root / kind / record_id)
                return record_id
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                record_id = f"{slug(name)}-{secrets.token_hex(3)}"

    def _folder(self, kind: str, record_id: str) -> Path:
        folder = self.root / kind / record_id
        if not _SLUG.fullmatch(record_id) or not folder.is_dir():
            noun = {"datasets": "dataset", "loras": "LoRA"}[kind]
            raise NotFound(f"There is no {noun} {record_id[:60]!r} in this workspace.", "Choose one from the list.")
        return folder

    def _record(self, kind: str, record_id: str) -> dict[str, Any]:
        return {"id": record_id, **read_json(self._folder(kind, record_id) / "record.json")}

    def _records(self, kind: str, record: type[Record]) -> list[Record]:
        ids = [folder.name for folder in (self.root / kind).iterdir() if _SLUG.fullmatch(folder.name)]
        records = (self._record(kind, record_id) for record_id in ids)
        return [record.from_dict(values) for values in sorted(records, key=lambda v: v["created"], reverse=True)]

    # Pictures

    def add_picture(self, png: bytes, recipe: dict[str, Any]) -> PictureRecord:
        """Keep a finished PNG that carries its recipe (see engine/recipe.py)."""
        picture_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f-") + secrets.token_hex(4)
        write_bytes(self.root / "pictures" / f"{picture_id}.png", png)
        self._index.add(picture_id, recipe)
        return self.picture(picture_id)

    def pictures(self, limit: int = 60, before: str | None = None) -> list[PictureRecord]:
        """At most `limit`, newest first; with `before`, those older than that picture."""
        return self._index.newest(limit, before or "~")

    def picture(self, picture_id: str) -> PictureRecord:
        """Raises: NotFound."""
        self.picture_path(picture_id)
        return self._index.get(picture_id)

    def picture_path(self, picture_id: str) -> Path:
        """Raises: NotFound."""
        path = self.root / "pictures" / f"{picture_id}.png"
        if not _PICTURE.fullmatch(picture_id) or not path.exists():
            raise NotFound(f"The picture {picture_id[:60]!r} is not in this workspace.", "Choose one from the history.")
        return path

    def picture_thumbnail_path(self, picture_id: str, side_px: int = 256) -> Path:
        """The picture as WebP with its longer side at most `side_px`. Raises: NotFound."""
        return self._thumbnail(self.picture_path(picture_id), side_px)

    def keep_scores(self, picture_id: str, scores: list[dict[str, Any]]) -> None:
        """Keep what was measured of a picture beside it (see engine/scores). Raises: NotFound."""
        write_json(self._scores_path(picture_id), scores)

    def scores(self, picture_id: str) -> list[dict[str, Any]]:
        """Empty where nothing was measured. Raises: NotFound."""
        path = self._scores_path(picture_id)
        return read_json(path) if path.exists() else []

    def _scores_path(self, picture_id: str) -> Path:
        return self.picture_path(picture_id).with_suffix(".scores.json")

    def delete_picture(self, picture_id: str) -> None:
        """Raises: NotFound."""
        self._scores_path(picture_id).unlink(missing_ok=True)
        self.picture_path(picture_id).unlink()
        for thumbnail in (self.root / "thumbnails").glob(f"{picture_id}-*"):
            thumbnail.unlink()
        self._index.remove(picture_id)

    # Jobs

    def job_folder(self, token: str) -> Path:
        """The folder of a job, made if need be. Raises: NotFound when `token` cannot be one."""
        if not _TOKEN.fullmatch(token):
            raise NotFound(f"{token[:60]!r} is not the token of a job.", "Check that it was copied whole.")
        folder = self.root / "jobs" / token
        folder.mkdir(exist_ok=True)
        return folder

    def job_tokens(self) -> list[str]:
        """In no particular order."""
        return [folder.name for folder in (self.root / "jobs").iterdir() if self.has_job(folder.name)]

    def has_job(self, token: str) -> bool:
        """A folder is a job once its job.json is there."""
        return _TOKEN.fullmatch(token) is not None and (self.root / "jobs" / token / "job.json").exists()

    def delete_job(self, token: str) -> None:
        _remove(self.job_folder(token))


class _PictureIndex:
    """A table of picture ids, in the order of time, with recipes. One connection per call: any thread may call."""

    def __init__(self, file: Path, pictures: Path) -> None:
        self._file = file
        try:
            self._reconcile(pictures)
        except sqlite3.DatabaseError:
            for damaged in file.parent.glob(f"{file.name}*"):
                damaged.unlink()
            self._reconcile(pictures)

    def _reconcile(self, pictures: Path) -> None:
        """Make the rows those of the files: all when the index is new, the few around a kill otherwise."""
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS pictures (id TEXT PRIMARY KEY, recipe TEXT NOT NULL)")
            if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError
            files = {path.stem: path for path in pictures.glob("*.png") if _PICTURE.fullmatch(path.stem)}
            rows = {picture_id for (picture_id,) in connection.execute("SELECT id FROM pictures")}
            for picture_id in files.keys() - rows:
                with suppress(OSError, KeyError):  # deleted meanwhile, or not one of ours
                    recipe = _embedded_recipe(files[picture_id])
                    connection.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?)", (picture_id, recipe))
            connection.executemany("DELETE FROM pictures WHERE id = ?", [(gone,) for gone in rows - files.keys()])

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=30)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # a power cut may damage it: then it is rebuilt
            yield connection

    def add(self, picture_id: str, recipe: dict[str, Any]) -> None:
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?)", (picture_id, json.dumps(recipe)))

    def remove(self, picture_id: str) -> None:
        with self._connection() as connection:
            connection.execute("DELETE FROM pictures WHERE id = ?", (picture_id,))

    def get(self, picture_id: str) -> PictureRecord:
        with self._connection() as connection:
            row = connection.execute("SELECT id, recipe FROM pictures WHERE id = ?", (picture_id,)).fetchone()
        return _picture_record(*row)

    def newest(self, limit: int, before: str) -> list[PictureRecord]:
        query = "SELECT id, recipe FROM pictures WHERE id < ? ORDER BY id DESC LIMIT ?"
        with self._connection() as connection:
            rows = connection.execute(query, (before, limit)).fetchall()
        return [_picture_record(*row) for row in rows]


def _picture_record(picture_id: str, recipe: str) -> PictureRecord:
    created = datetime.strptime(picture_id.rsplit("-", 1)[0], "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)
    return PictureRecord(id=picture_id, created=created.isoformat(timespec="microseconds"), recipe=json.loads(recipe))


def _embedded_recipe(png: Path) -> str:
    with Image.open(png) as image:
        return image.info[RECIPE_CHUNK]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Gone at once for readers, also when a kill interrupts the deletion of a folder's files."""
    if path.is_dir():
        hidden = path.with_name(f"{_STAGED}{secrets.token_hex(8)}")
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink()
