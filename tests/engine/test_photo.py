import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from engine.photo import VIEW_SIDE_PX, blur_px, cropped, same_view, suggest_crop
from engine.samples import SAMPLES_FOLDER
from engine.settings import CropBox


def pictures(subject: str) -> list[Path]:
    return sorted((SAMPLES_FOLDER / "subjects" / subject / "image").glob("*.png"))


def view(file: Path, blur: float = 0) -> Image.Image:
    image = Image.open(file).convert("RGB").filter(ImageFilter.GaussianBlur(blur))
    return image.resize((VIEW_SIDE_PX, VIEW_SIDE_PX), Image.Resampling.LANCZOS)


class TestCropped:
    def test_cuts_the_square(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
        crop = CropBox(left_px=20, top_px=10, side_px=32)

        np.testing.assert_array_equal(cropped(Image.fromarray(pixels), crop, 32), pixels[10:42, 20:52])

    def test_without_a_crop_it_is_the_middle(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)

        np.testing.assert_array_equal(cropped(Image.fromarray(pixels), None, 60), pixels[:, 15:75])

    def test_what_reaches_out_is_moved_inside(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
        crop = CropBox(left_px=80, top_px=50, side_px=16)

        np.testing.assert_array_equal(cropped(Image.fromarray(pixels), crop, 16), pixels[44:, 74:])


class TestSuggestCrop:
    @pytest.mark.parametrize("subject", ["teddy_bear", "stone_lantern", "fire_extinguisher", "person"])
    def test_keeps_the_whole_subject_and_little_else(self, subject: str) -> None:
        """Against the renderer's exact masks."""
        for file in pictures(subject)[::4]:
            mask = np.asarray(Image.open(file.parents[1] / "mask" / file.name)) > 127
            crop = suggest_crop(Image.open(file))
            inside = mask[crop.top_px : crop.top_px + crop.side_px, crop.left_px : crop.left_px + crop.side_px]

            y, x = np.nonzero(mask)
            longer_px = max(np.ptp(x), np.ptp(y)) + 1
            assert inside.sum() > 0.95 * mask.sum()
            assert crop.side_px < max(1.3 * longer_px, 257)

    @pytest.mark.parametrize(("size_px", "at"), [((1600, 700), (1000, 100)), ((700, 1600), (100, 900))])
    def test_finds_the_subject_anywhere(self, size_px: tuple[int, int], at: tuple[int, int]) -> None:
        render = Image.open(pictures("teddy_bear")[0]).convert("RGB")
        photo = Image.new("RGB", size_px, render.getpixel((0, 0)))
        photo.paste(render, at)
        alone = suggest_crop(render)

        crop = suggest_crop(photo)

        offsets = np.array([crop.left_px, crop.top_px]) - np.add([alone.left_px, alone.top_px], at)
        assert np.abs(offsets + (crop.side_px - alone.side_px) / 2).max() < 20

    def test_a_tall_portrait_keeps_the_head(self) -> None:
        portrait = Image.open(SAMPLES_FOLDER / "compositions" / "grace_hopper.jpg")  # 512 x 600, hat at y 25, chin 322

        crop = suggest_crop(portrait)

        assert crop.side_px == 512
        assert crop.top_px < 100

    def test_flat_picture_gives_its_middle(self) -> None:
        crop = suggest_crop(Image.new("RGB", (400, 300), "grey"))

        assert crop == CropBox(left_px=50, top_px=0, side_px=300)


class TestBlur:
    @pytest.mark.parametrize("sigma_px", [0.75, 1.0, 1.5])
    def test_measures_the_sigma_of_an_edge(self, sigma_px: float) -> None:
        profile = [127.5 * (1 + math.erf((x - 128) / (sigma_px * math.sqrt(2)))) for x in range(256)]
        edge = Image.fromarray(np.tile(profile, (256, 1)).round().astype(np.uint8))

        assert blur_px(edge) == pytest.approx(sigma_px, rel=0.15)

    def test_contrast_does_not_matter(self) -> None:
        sharp = view(pictures("teddy_bear")[1])
        faint = ImageEnhance.Contrast(sharp).enhance(0.3)

        assert blur_px(faint) == pytest.approx(blur_px(sharp), rel=0.1)

    @pytest.mark.parametrize("subject", ["teddy_bear", "stone_lantern", "fire_extinguisher", "person"])
    def test_parts_crisp_from_blurred(self, subject: str) -> None:
        files = pictures(subject)[::5]

        assert max(blur_px(view(file)) for file in files) < 0.6
        assert min(blur_px(view(file, blur=2)) for file in files) > 0.6


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda image: image.resize((200, 200)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "closer": lambda image: image.crop((15, 15, 497, 497)),
    "moved": lambda image: image.crop((22, 6, 502, 486)),
    "turned": lambda image: image.rotate(2, Image.Resampling.BICUBIC).crop((20, 20, 492, 492)),
}
EXACT = ("smaller", "blurred", "flatter", "closer")


class TestSameView:
    @pytest.mark.parametrize("change", CHANGES)
    def test_one_shot_changed_a_little(self, change: str) -> None:
        photos = [SAMPLES_FOLDER / "compositions" / name for name in ("astronaut.png", "grace_hopper.jpg")]
        renders = [pictures("teddy_bear")[0], pictures("person")[4]] if change in EXACT else []
        for file in photos + renders:
            image = Image.open(file).convert("RGB").crop((0, 0, 512, 512))
            assert same_view(cropped(image, None, VIEW_SIDE_PX), cropped(CHANGES[change](image), None, VIEW_SIDE_PX))

    def test_other_views_of_one_thing(self) -> None:
        views = [view(file) for file in pictures("teddy_bear")[:8]]

        assert not any(same_view(one, other) for one, other in itertools.combinations(views, 2))
