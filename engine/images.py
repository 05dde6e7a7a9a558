"""Pictures from strangers: opened within bounds, upright, in plain RGB; and zips of them.

Everything that enters the studio passes through here once. Nothing here knows of datasets or workspaces.
"""

import contextlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from engine.errors import BadArchive, BadImage

pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF")
MAX_PIXELS = 50_000_000
MAX_SIDE_PX = 4096
MIN_SIDE_PX = 64

MAX_ARCHIVE_ENTRIES = 400
MAX_ENTRY_MB = 200
MAX_ARCHIVE_MB = 2000
MAX_RATIO = 100
MAX_NAME = 100
CAPTION_ENDING = ".txt"
NESTED_ENDINGS = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # for whatever else in this process opens a picture


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """The first frame of a picture: upright, sRGB, alpha over white, no metadata, longest side at most `MAX_SIDE_PX`.

    `name` is what the person calls the file. Raises: BadImage.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _require_size(image.size, name)
            image.load()
            upright = _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BadImage(
            f"{name} is not a picture that can be read.", "Use JPEG, PNG, WebP, HEIC, AVIF or TIFF."
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except BadImage:
        raise
    except Exception as error:  # damaged data makes the decoders raise errors of a dozen kinds
        raise BadImage(f"{name} is damaged and cannot be read.", "Export it again and upload that.") from error
    upright.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    return upright


def _too_large(name: str, size: str = "") -> BadImage:
    limit = MAX_PIXELS // 1_000_000
    return BadImage(f"{name} is too large{size}.", f"Use a picture of at most {limit} megapixels.")


def _require_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f": {width} × {height} px, {width * height / 1e6:.0f} megapixels")
    shorter = min(size) * min(1, MAX_SIDE_PX / max(size))
    if shorter < MIN_SIDE_PX:
        raise BadImage(
            f"{name} is too small or too narrow: {width} × {height} px.",
            f"Use a picture of at least {MIN_SIDE_PX} px on its shorter side.",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Plain sRGB pixels with nothing attached."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to white instead of scale
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    rgb = image.convert("RGB")
    if profile:  # phones store Display P3; taken for sRGB it would look pale
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a profile that does not fit the pixels is passed over
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            ImageCms.profileToProfile(rgb, source, ImageCms.createProfile("sRGB"), inPlace=True)
    rgb.info = {}
    return rgb


class Packed(NamedTuple):
    """One file of a zip: its bare name, fit for a sentence; its bytes; and the text of NAME.txt beside it, or ""."""

    name: str
    data: bytes
    caption: str


def archive_size(path: Path) -> int:
    """How many files that may be pictures a zip holds. Raises: BadArchive."""
    with _open_archive(path) as archive:
        return sum(not _is_caption(entry) for entry in _entries(archive, path.name))


def safe_zip_images(path: Path) -> Iterator[Packed]:
    """The files of a zip, one at a time in memory, whatever their endings; `open_image` says which are pictures.

    Nothing is written, hidden files are passed over, and the bytes are counted as they are really read.
    Raises: BadArchive when the zip is damaged, locked, too large, or tries to be anything but a folder of files.
    """
    with _open_archive(path) as archive:
        entries = _entries(archive, path.name)
        left = MAX_ARCHIVE_MB * 1_000_000

        def read(entry: zipfile.ZipInfo) -> bytes:
            nonlocal left
            allowed = min(left, MAX_ENTRY_MB * 1_000_000)
            try:
                with archive.open(entry) as file:
                    data = file.read(allowed + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
                raise _damaged(path.name) from error
            if len(data) > allowed:
                raise BadArchive(
                    f"{path.name} unpacks to too much, at {entry.filename!r}.",
                    f"Use files of at most {MAX_ENTRY_MB} MB, and {MAX_ARCHIVE_MB} MB in all.",
                )
            left -= len(data)
            return data

        captions = {_inside(e).with_suffix(""): read_caption(read(e)) for e in entries if _is_caption(e)}
        for entry in entries:
            if not _is_caption(entry):
                inside = _inside(entry)
                name = "".join(letter if letter.isprintable() else "?" for letter in inside.name[-MAX_NAME:])
                yield Packed(name, read(entry), captions.get(inside.with_suffix(""), ""))


def read_caption(data: bytes) -> str:
    """The text of a caption file on one line, cut at 2000 characters."""
    return " ".join(data[:8000].decode("utf-8-sig", errors="replace").split())[:2000]


def _damaged(name: str) -> BadArchive:
    return BadArchive(f"{name} is not a zip or is damaged.", "Make the zip again and upload that.")


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path.name) from error


def _entries(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    """The visible files of a zip, after its table of contents has been found harmless."""
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(files) > MAX_ARCHIVE_ENTRIES:
        raise BadArchive(f"{name} holds {len(files)} files.", f"Pack at most {MAX_ARCHIVE_ENTRIES}.")
    for entry in files:
        inside = _inside(entry)
        if inside.anchor or ".." in inside.parts:
            raise BadArchive(f"{name} points outside of itself, at {entry.filename!r}.", "Pack plain files only.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BadArchive(f"{name} holds a link, {entry.filename!r}.", "Pack the picture itself.")
        if inside.suffix.lower() in NESTED_ENDINGS:
            raise BadArchive(f"{name} holds another archive, {entry.filename!r}.", "Unpack that one first.")
        if entry.flag_bits & 0x1:
            raise BadArchive(f"{name} is locked with a password.", "Make a zip without one.")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise BadArchive(
                f"{name} is packed suspiciously tight: {entry.filename!r} grows over {MAX_RATIO} times.",
                "Pack ordinary photos only.",
            )
    return [entry for entry in files if not _is_hidden(entry)]


def _inside(entry: zipfile.ZipInfo) -> PureWindowsPath:
    """Where a file lies in its zip; a Windows path takes both kinds of slash, and drives."""
    return PureWindowsPath(entry.filename)


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Such as .DS_Store and the __MACOSX folder, which systems add by themselves."""
    inside = _inside(entry)
    return not inside.name or any(part.startswith((".", "__")) for part in inside.parts)


def _is_caption(entry: zipfile.ZipInfo) -> bool:
    return _inside(entry).suffix.lower() == CAPTION_ENDING
