from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.controls import KINDS, detect, networks
from engine.controls.fidelity import MEASURES
from engine.errors import BadSettings, MissingModel, NothingDetected
from engine.samples import SAMPLES_FOLDER
from engine.settings import ControlName


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


def test_every_kind_that_can_be_asked_for_is_here_with_its_detectors() -> None:
    assert set(KINDS) == set(get_args(ControlName)) == set(MEASURES)
    for kind in KINDS.values():
        assert all(option.low <= option.default <= option.high for option in kind.options)
        names = [detector.name for detector in kind.table]
        assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("kind", ["canny", "softedge", "lines", "scribble", "lineart"])
def test_what_needs_no_network_of_the_hub_gives_light_lines_on_black(kind: str) -> None:
    image = composition("rocket.jpg")

    drawn = np.asarray(detect(kind, image))

    assert drawn.shape == (image.height, image.width, 3)
    assert np.ptp(drawn, axis=2).max() == 0
    assert np.median(drawn) < 32
    assert drawn.max() > 200


@pytest.mark.parametrize("kind", ["canny", "openpose", "softedge", "lines", "scribble", "lineart"])
def test_nothing_to_see_is_said_so(kind: str) -> None:
    with pytest.raises(NothingDetected, match="found in this picture"):
        detect(kind, Image.new("RGB", (200, 140), "grey"))


def test_embedded_detectors_are_offered_once_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    assert "starter" not in [detector.name for detector in KINDS["depth"].detectors]
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "config.json").touch()
    usual = KINDS["depth"].detectors[0]
    assert (usual.name, usual.quality, usual.offline) == ("starter", "starter quality", True)


@pytest.mark.parametrize("starter", [False, True])
def test_a_network_out_of_reach_is_named_with_what_to_do(
    starter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    if starter:
        (tmp_path / "depth").mkdir()
        (tmp_path / "depth" / "config.json").touch()
    with pytest.raises(
        MissingModel, match="depth-anything/Depth-Anything-V2-Small-hf is not on this machine"
    ) as caught:
        detect("depth", composition("coffee.png"), detector="depth_anything")
    instead = "choose the detector Starter" if starter else "give a ready-made depth map"
    assert instead in caught.value.remedy
