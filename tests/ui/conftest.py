"""The page as it is served, over an empty workspace and the tiny base."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import make_tiny_base


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("starter"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Iterator[str]:
    """The URL of a running page. Its trainings are real processes, which inherit the environment set here."""
    from engine.studio import Studio
    from engine.workspace import Workspace
    from ui import build_app
    from ui.theme import launch_options

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_STARTER", str(starter))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
        app = build_app(Studio(Workspace(tmp_path_factory.mktemp("workspace"))))
        _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, _frontend=False, **launch_options())
        yield url
        app.close()
