import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.errors import BadArchive, BadImage
from engine.images import MAX_SIDE_PX, open_image, safe_zip_images

ORIENTATION = 0x0112


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def quadrants(size_px: tuple[int, int] = (160, 120)) -> Image.Image:
    """Red, green on top; blue, white below."""
    colours = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
    return Image.fromarray(colours).resize(size_px, Image.Resampling.NEAREST)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> np.ndarray:
    return np.asarray(image)[y, x]


def empty_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


class TestOpenImage:
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF"])
    def test_reads_what_people_have(self, file_format: str) -> None:
        image = open_image(encoded(quadrants(), file_format), "a")

        assert (image.mode, image.size) == ("RGB", (160, 120))
        assert np.abs(np.asarray(image, float) - np.asarray(quadrants(), float)).mean() < 6

    @pytest.mark.parametrize("file_format", ["JPEG", "HEIF"])
    def test_turns_upright_and_drops_metadata(self, file_format: str) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6  # the camera was held upright: show it turned by 90 degrees clockwise
        exif[0x010F] = "maker"
        image = open_image(encoded(quadrants(), file_format, exif=exif.tobytes()), "a")

        assert image.size == (120, 160)
        np.testing.assert_allclose(pixel(image, 10, 10), (0, 0, 255), atol=40)  # the lower left came on top
        assert not image.info
        assert not image.getexif()

    def test_alpha_goes_over_white(self) -> None:
        clear = Image.new("RGBA", (80, 80), (10, 20, 30, 0))
        half = Image.new("RGBA", (80, 80), (0, 0, 0, 127))

        assert open_image(encoded(clear), "a").getpixel((0, 0)) == (255, 255, 255)
        np.testing.assert_allclose(pixel(open_image(encoded(half), "a")), 128, atol=1)

    def test_sixteen_bits_are_scaled_not_clipped(self) -> None:
        ramp = np.linspace(0, 65535, 256).astype(np.uint16)
        image = open_image(encoded(Image.fromarray(np.tile(ramp, (64, 1)))), "a")

        np.testing.assert_allclose(np.asarray(image)[0, :, 0], np.arange(256), atol=1)

    def test_colour_profile_is_applied(self) -> None:
        """sRGB with the tags of red and green exchanged: what the file calls red is green."""
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        swapped = profile.replace(b"rXYZ", b"~~~~").replace(b"gXYZ", b"rXYZ").replace(b"~~~~", b"gXYZ")
        red = Image.new("RGB", (64, 64), (255, 0, 0))

        np.testing.assert_allclose(pixel(open_image(encoded(red, icc_profile=profile), "a")), (255, 0, 0))
        image = open_image(encoded(red, icc_profile=swapped), "a")
        np.testing.assert_allclose(pixel(image, 0, 0), (0, 255, 0), atol=2)

    def test_unfit_profile_is_passed_over(self) -> None:
        assert open_image(encoded(quadrants(), icc_profile=b"nonsense"), "a").size == (160, 120)

    def test_wide_photo_within_the_bound_is_reduced(self) -> None:
        image = open_image(encoded(Image.new("L", (9000, 900), 77), "JPEG"), "a")

        assert image.size == (MAX_SIDE_PX, round(MAX_SIDE_PX / 10))
        assert image.getpixel((0, 0)) == (77, 77, 77)

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            (b"#!/bin/sh\nexit", "a.png is not a picture"),
            (b"", "a.png is not a picture"),
            (b"%PDF-1.4 ...", "a.png is not a picture"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "a.png is not a picture"),
            (encoded(quadrants())[:90], "a.png is damaged"),
            (encoded(quadrants(), "JPEG")[:900], "a.png is damaged"),
            (empty_png(9000, 9000), "too large: 9000 × 9000 px, 81 megapixels"),
            (empty_png(60000, 60000), "a.png is too large"),
            (encoded(quadrants((20, 300))), "too small or too narrow: 20 × 300 px"),
            (encoded(Image.new("L", (20000, 70))), "too small or too narrow: 20000 × 70 px"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_refuses_with_a_sentence(self, data: bytes, sentence: str) -> None:
        with pytest.raises(BadImage, match=sentence) as refused:
            open_image(data, "a.png")
        assert refused.value.remedy.endswith(".")


def zipped(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


class TestZips:
    def test_files_come_with_their_captions_and_without_what_is_hidden(self, tmp_path: Path) -> None:
        photo = encoded(quadrants())
        path = zipped(
            tmp_path / "a.zip",
            {
                "set/1.png": photo,
                "set/1.txt": "\ufeffa photo\nof sks ".encode(),
                "other/1.png": photo,
                "__MACOSX/set/._1.png": b"x",
                "set/.DS_Store": b"x",
                "notes.pdf": b"%PDF",
            },
        )

        packed = list(safe_zip_images(path))

        assert [(p.name, p.caption) for p in packed] == [("1.png", "a photo of sks"), ("1.png", ""), ("notes.pdf", "")]
        assert packed[0].data == photo

    @pytest.mark.parametrize(
        "name", ["../a.png", "x/../../a.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "\\\\h\\a.png"]
    )
    def test_refuses_ways_out(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(BadArchive, match="points outside"):
            list(safe_zip_images(zipped(tmp_path / "a.zip", {"ok.png": b"1", name: b"1"})))

    def test_refuses_links(self, tmp_path: Path) -> None:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(link, "/etc/passwd")

        with pytest.raises(BadArchive, match="holds a link"):
            list(safe_zip_images(tmp_path / "a.zip"))

    @pytest.mark.parametrize(
        ("files", "sentence"),
        [
            ({"inner.ZIP": b"PK"}, "another archive"),
            ({f"{n}.png": b"1" for n in range(401)}, "holds 401 files"),
            ({"a.png": bytes(10_000_000)}, "suspiciously tight"),
        ],
    )
    def test_refuses_bombs(self, tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
        with pytest.raises(BadArchive, match=sentence):
            list(safe_zip_images(zipped(tmp_path / "a.zip", files)))

    def test_counts_bytes_as_they_are_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.images.MAX_ARCHIVE_MB", 1)
        noise = np.random.default_rng(0).bytes(600_000)
        entries = safe_zip_images(zipped(tmp_path / "a.zip", {"a.png": noise, "b.png": noise}))

        assert next(entries).name == "a.png"
        with pytest.raises(BadArchive, match="unpacks to too much"):
            next(entries)

    def test_refuses_damage_and_passwords(self, tmp_path: Path) -> None:
        whole = zipped(tmp_path / "a.zip", {"a.png": encoded(quadrants())}, compression=zipfile.ZIP_STORED).read_bytes()
        flipped = bytearray(whole)
        flipped[60] ^= 0xFF  # inside the picture: its checksum fails
        locked = bytearray(whole)
        locked[whole.index(b"PK\x01\x02") + 8] |= 1  # the flags of the entry in the table of contents
        damaged = {
            b"no zip": "is not a zip",
            whole[:50]: "is not a zip",
            bytes(flipped): "damaged",
            bytes(locked): "password",
        }
        for data, sentence in damaged.items():
            (tmp_path / "b.zip").write_bytes(data)
            with pytest.raises(BadArchive, match=sentence):
                list(safe_zip_images(tmp_path / "b.zip"))
