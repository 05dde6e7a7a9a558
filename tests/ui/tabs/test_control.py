"""The menu of detectors and what the cards say of them."""

from pathlib import Path

import pytest

from engine.controls import KINDS, networks
from ui.tabs.control import detector_menu, note


def test_one_detector_leaves_nothing_to_choose() -> None:
    menu = detector_menu(KINDS["canny"])
    assert (menu["value"], menu["visible"]) == ("canny", False)
    assert "Hub" not in note(KINDS["canny"])


def test_what_must_be_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    menu = detector_menu(KINDS["depth"])
    assert menu["visible"]
    assert all("from the Hub" in title for title, _ in menu["choices"])
    assert "fetched from the Hub" in note(KINDS["depth"])


def test_the_embedded_one_comes_first_with_its_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DETECTORS_FOLDER", tmp_path)
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "config.json").touch()
    menu = detector_menu(KINDS["normal"])
    assert menu["choices"][0] == ("Starter (starter quality)", "starter")
    assert menu["value"] == "starter"
    assert "Hub" not in note(KINDS["normal"])
