import cv2
import numpy as np
import pytest
from PIL import Image

from engine.controls import KINDS, detect
from engine.errors import BadSettings, NothingDetected
from engine.samples import SAMPLES_FOLDER


def composition(name: str) -> Image.Image:
    return Image.open(SAMPLES_FOLDER / "compositions" / name).convert("RGB")


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png"])
def test_canny_is_opencvs_at_the_size_of_the_picture(name: str) -> None:
    image = composition(name)

    edges = np.asarray(detect("canny", image))

    assert edges.shape == (image.height, image.width, 3)
    expected = cv2.Canny(np.asarray(image), 100, 200)
    np.testing.assert_array_equal(
        edges[:-2, :-2, 0], expected[:-2, :-2]
    )  # at its border OpenCV repeats the picture too
    np.testing.assert_array_equal(edges[..., 1], edges[..., 2])


def test_canny_options_reach_the_detector() -> None:
    image = composition("coffee.png")

    faint = np.asarray(detect("canny", image, {"low_threshold": 20, "high_threshold": 50}, detector="canny"))

    np.testing.assert_array_equal(faint[:-2, :-2, 0], cv2.Canny(np.asarray(image), 20, 50)[:-2, :-2])


def test_empty_map_is_refused() -> None:
    with pytest.raises(NothingDetected, match="No edges"):
        detect("canny", Image.new("RGB", (100, 70), "grey"))


@pytest.mark.parametrize(
    ("kind", "options", "detector", "sentence"),
    [
        ("sketch", {}, None, "'sketch' cannot be taken"),
        ("canny", {"blur": 1}, None, "no option 'blur'"),
        ("canny", {"low_threshold": 300}, None, "is 300"),
        ("canny", {"low_threshold": float("nan")}, None, "is nan"),
        ("openpose", {}, "canny", "no detector 'canny'"),
    ],
)
def test_bad_requests_are_refused(kind: str, options: dict[str, float], detector: str | None, sentence: str) -> None:
    with pytest.raises(BadSettings, match=sentence):
        detect(kind, composition("coffee.png"), options, detector=detector)


def test_defaults_lie_in_range() -> None:
    assert set(KINDS) == {"canny", "openpose"}
    for kind in KINDS.values():
        assert all(option.low <= option.default <= option.high for option in kind.options)
