"""Ready-made maps are known for what they are, photos for none: the samples' exact maps, and maps of their photos."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.controls import detect, require_kind
from engine.controls.ade20k import coloured
from engine.controls.ready import fitted, remarks
from engine.controls.recognise import Recognised, recognise
from engine.errors import BadImage
from engine.samples import SAMPLES_FOLDER, load_samples

SUBJECTS = ("teddy_bear", "fire_extinguisher", "stone_lantern", "person")
COMPOSITIONS = ("astronaut.png", "chelsea.png", "coffee.png", "grace_hopper.jpg", "rocket.jpg")


def composition(name: str) -> Image.Image:
    return Image.open(SAMPLES_FOLDER / "compositions" / name).convert("RGB")


def exact(subject: str, kind: str, view: int) -> Image.Image:
    return Image.open(SAMPLES_FOLDER / "subjects" / subject / kind / f"{view:02}.png")


def areas(subject: str, view: int) -> Image.Image:
    """A person, or what passes for one, before a wall and on a floor."""
    thing = np.asarray(exact(subject, "mask", view)) > 127
    return coloured(np.where(thing, 12, np.where(np.arange(512)[:, None] > 300, 3, 0)))


def as_jpeg(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=85)
    return Image.open(data).convert("RGB")


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_exact_maps(subject: str, kind: str) -> None:
    for view in range(0, 20, 5):
        assert recognise(exact(subject, kind, view)) == Recognised(kind)


def test_skeletons_also_as_jpeg_and_of_other_sizes() -> None:
    for view in range(0, 20, 5):
        skeleton = exact("person", "openpose", view).convert("RGB")
        for shown in (skeleton, as_jpeg(skeleton), skeleton.resize((256, 256)), skeleton.resize((1100, 1100))):
            assert recognise(shown) == Recognised("openpose")


def test_areas_also_as_jpeg() -> None:
    for subject in SUBJECTS:
        assert recognise(areas(subject, 3)) == recognise(as_jpeg(areas(subject, 3))) == Recognised("segmentation")


@pytest.mark.parametrize("kind", ["canny", "softedge", "lines", "scribble", "lineart"])
def test_detected_lines_both_ways_round(kind: str) -> None:
    for name in COMPOSITIONS:
        drawn = detect(kind, composition(name))
        assert recognise(drawn) == Recognised("canny")
        assert recognise(ImageOps.invert(drawn)) == Recognised("canny", inverted=True)


def test_detected_skeletons() -> None:
    for name in ("astronaut.png", "grace_hopper.jpg"):
        assert recognise(detect("openpose", composition(name))) == Recognised("openpose")


def test_photos_and_looks_are_no_maps_but_a_pencil_sketch_is() -> None:
    samples = load_samples()
    files = [
        *(sample.file for sample in (*samples.compositions, *samples.looks)),
        *(file for subject in samples.subjects for file in subject.photos[::4]),
    ]
    seen = {file.name: recognise(Image.open(file)) for file in files}
    assert {name: map_ for name, map_ in seen.items() if map_} == {
        "pencil-sketch.png": Recognised("canny", inverted=True)
    }


def test_grey_photos_are_no_maps() -> None:
    for name in COMPOSITIONS:
        assert recognise(composition(name).convert("L")) is None


def test_a_mask_is_no_map_of_any_kind() -> None:
    assert recognise(exact("person", "mask", 0)) is None


@pytest.mark.parametrize(
    ("kind", "other", "sentence"),
    [
        ("depth", "openpose", "This is a map of pose, not of depth."),
        ("openpose", "normal", "This is a map of surfaces, not of pose."),
        ("canny", "depth", "This is a map of depth, not of edges."),
    ],
)
def test_a_map_of_another_kind_is_refused(kind: str, other: str, sentence: str) -> None:
    with pytest.raises(BadImage, match=sentence):
        require_kind(kind, exact("person", other, 0))


def test_maps_of_its_kind_drawn_lines_for_each_other_and_photos_pass() -> None:
    require_kind("depth", exact("person", "depth", 0))
    require_kind("scribble", detect("canny", composition("coffee.png")))
    require_kind("depth", composition("coffee.png"))


def test_dark_lines_on_white_are_turned_round_with_a_remark() -> None:
    lines = detect("canny", composition("coffee.png"))
    inverted = ImageOps.invert(lines)
    assert [remark for remark in remarks("canny", inverted, *lines.size) if "dark on white" in remark]
    np.testing.assert_array_equal(
        np.asarray(fitted("canny", inverted, *lines.size)), np.asarray(fitted("canny", lines, *lines.size))
    )
    assert remarks("canny", lines, *lines.size) == []


def test_what_is_cut_or_enlarged_is_remarked() -> None:
    skeleton = exact("person", "openpose", 0)
    assert "50% of it, at the border, is cut off" in remarks("openpose", skeleton, 256, 512)[0]
    assert "enlarged 2.0 times" in remarks("openpose", skeleton, 1024, 1024)[0]
    assert remarks("openpose", skeleton, 512, 512) == []


def test_areas_keep_their_colours_when_they_are_fitted() -> None:
    before, after = areas("person", 0), fitted("segmentation", areas("person", 0), 200, 120)
    colours = [set(map(tuple, np.asarray(map_).reshape(-1, 3).tolist())) for map_ in (before, after)]
    assert colours[0] == colours[1]
