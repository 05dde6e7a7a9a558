"""The start of a picture: its shape, its mask, and what goes back into it, in closed forms."""

import numpy as np
import pytest
from PIL import Image

from engine.errors import BadImage, BadSettings
from engine.settings import StartImage
from engine.start_picture import feathered, start_from, surroundings


def use(**changes: object) -> StartImage:
    return StartImage.from_dict({"image": "-", **changes})


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def rectangle(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def test_a_start_is_cut_to_the_shape_of_the_picture_around_its_middle() -> None:
    whole = noise(96, 64)
    start = start_from(use(), whole, None, 64, 64)
    assert np.array_equal(np.asarray(start.image), np.asarray(whole.crop((16, 0, 80, 64))))
    drawn = noise(64, 64)
    assert start.put_back(drawn) is drawn


def test_the_mask_is_cut_as_the_picture_is_and_has_no_greys() -> None:
    grey = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) * 2, (64, 1)))
    start = start_from(use(mask="-"), noise(96, 64), grey, 64, 64)
    assert start.mask is not None
    expected = np.tile(np.where(np.arange(16, 80) * 2 >= 128, 255, 0), (64, 1))
    assert np.array_equal(np.asarray(start.mask), expected)


def test_what_is_drawn_goes_back_where_the_mask_is_white() -> None:
    whole, drawn = noise(64, 64), Image.new("RGB", (64, 64), "red")
    mask = rectangle((64, 64), (8, 16, 32, 48))
    start = start_from(use(mask="-", feather_px=0), whole, mask, 64, 64)
    expected = np.where(np.asarray(mask)[..., None] == 255, np.asarray(drawn), np.asarray(whole))
    assert np.array_equal(np.asarray(start.put_back(drawn)), expected)


def test_a_feather_rises_inwards_and_leaves_black_black() -> None:
    ramp = np.asarray(feathered(rectangle((40, 9), (10, 0, 40, 9)), 4))[4]
    assert ramp[:10].tolist() == [0] * 10
    assert ramp[10:15].tolist() == [51, 102, 153, 204, 255]
    assert (ramp[15:] == 255).all()


def test_only_masked_draws_the_surroundings_at_full_size_and_puts_them_back_small() -> None:
    whole, mask = noise(200, 160), rectangle((200, 160), (60, 40, 80, 60))
    settings = use(mask="-", only_masked=True, padding_px=6, feather_px=0)
    start = start_from(settings, whole, mask, 64, 64)
    box = (54, 34, 86, 66)
    assert start.box == box
    near = whole.crop(box).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(start.image), np.asarray(near))
    back = start.put_back(Image.new("RGB", (64, 64), "red"))
    expected = np.where(np.asarray(mask)[..., None] == 255, [255, 0, 0], np.asarray(whole))
    assert np.array_equal(np.asarray(back), expected)
    layout = noise(200, 160)
    seen = layout.crop(box).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(start.seen(layout, 64, 64)), np.asarray(seen))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((60, 40, 80, 60), (44, 34, 96, 60 + 6)),  # 32 px high, so 52 wide for 13:8
        ((0, 0, 20, 20), (0, 0, 42, 26)),
        ((190, 150, 200, 160), (174, 144, 200, 160)),
    ],
)
def test_surroundings_grow_to_the_shape_of_the_picture_within_the_start(
    box: tuple[int, int, int, int], expected: tuple[int, int, int, int]
) -> None:
    assert surroundings(rectangle((200, 160), box), 104, 64, 6) == expected


def test_a_mask_of_another_size_or_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(BadImage, match=r"The mask is 32 × 64 px and the picture 64 × 64 px\."):
        start_from(use(mask="-"), noise(64, 64), rectangle((32, 64), (0, 0, 9, 9)), 64, 64)
    with pytest.raises(BadImage, match=r"The mask is empty\. Paint over"):
        start_from(use(mask="-"), noise(64, 64), Image.new("L", (64, 64), 127), 64, 64)
    with pytest.raises(BadImage, match=r"At 64 × 64 px nothing is left of the mask\."):
        start_from(use(mask="-"), noise(192, 64), rectangle((192, 64), (0, 0, 20, 64)), 64, 64)


@pytest.mark.parametrize("change", [{"strength": 0.0}, {"strength": 1.1}, {"feather_px": -1}, {"padding_px": 300}])
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadSettings):
        use(**change)
    with pytest.raises(BadSettings, match="Denoising strength is 0, which leaves the picture as it is"):
        use(strength=0)
