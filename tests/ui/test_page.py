"""How the events of the page are wired: the browser has work with each of them, and some would never end."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.studio import Studio
from engine.workspace import Workspace
from ui import build_app


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_STARTER", str(starter))
        app = build_app(Studio(Workspace(tmp_path_factory.mktemp("workspace"))))
        return list(app.get_config_file().get("dependencies", ()))


def test_no_two_events_call_each_other_up(events: list[Any]) -> None:
    """An "always_last" that was asked for again while it ran fires its trigger for all who listen to it."""
    last = Counter(tuple(target) for e in events if e["trigger_mode"] == "always_last" for target in e["targets"])
    assert [target for target, listeners in last.items() if listeners > 1] == []


def test_progress_is_shown_in_few_places(events: list[Any]) -> None:
    """After every event the browser looks up all the places where any event may show its progress."""
    on_the_page = [e for e in events if e["api_visibility"] == "private"]
    places = {id_ for e in on_the_page for id_ in e["show_progress_on"] or e["outputs"]}
    assert 0 < len(places) <= 10
