"""A job's state in plain words: real jobs of a real runner."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.errors import BadImage
from engine.jobs import Job, Runner, Work
from engine.workspace import Workspace
from ui.watch import in_words, panel


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(Workspace(tmp_path))


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a job until it is set; set at the end whatever happens, so that no thread waits for ever."""
    event = threading.Event()
    yield event
    event.set()


def finished(runner: Runner, work: Callable[[Work], dict[str, Any]]) -> Job:
    return runner.submit("test", {}, work).wait(10)


def wait_for_step(job: Job, step: int) -> None:
    while job.progress().step < step:
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (8, "8 s"), (89, "89 s"), (95, "2 min"), (1800, "30 min"), (4800, "1 h 20 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_running_job_shows_its_share_its_time_and_its_preview(runner: Runner, gate: threading.Event) -> None:
    def work(work: Work) -> dict[str, Any]:
        work.preview(Image.new("RGB", (8, 8)))
        work.progress(1, 4, "Drawing <b>")
        work.progress(2, 4, "Drawing <b>")
        gate.wait(10)
        return {}

    job = runner.submit("test", {}, work)
    wait_for_step(job, 2)
    html = panel(job)
    assert 'aria-valuenow="50"' in html
    assert "2 of 4" in html
    assert " s left" in html
    assert "Drawing &lt;b&gt;" in html
    assert "data:image/jpeg;base64," in html


def test_a_job_behind_another_waits_its_turn(runner: Runner, gate: threading.Event) -> None:
    runner.submit("test", {}, lambda work: {"waited": gate.wait(10)})
    assert "Waiting for its turn" in panel(runner.submit("test", {}, lambda work: {}))


def test_a_stopped_job_says_how_far_it_got(runner: Runner, gate: threading.Event) -> None:
    def work(work: Work) -> dict[str, Any]:
        work.progress(3, 9)
        gate.wait(10)
        work.check_cancelled()
        return {}

    job = runner.submit("test", {}, work)
    wait_for_step(job, 3)
    job.cancel()
    gate.set()
    assert "Stopped at step 3 of 9" in panel(job.wait(10))


def test_a_failure_that_a_person_can_mend_is_told_whole(runner: Runner) -> None:
    def work(work: Work) -> dict[str, Any]:
        raise BadImage("cat.txt is not a picture.", "Use a photo.")

    html = panel(finished(runner, work))
    assert "cat.txt is not a picture. Use a photo." in html
    assert 'role="alert"' in html


def test_any_other_failure_keeps_its_secrets(runner: Runner) -> None:
    def work(work: Work) -> dict[str, Any]:
        raise RuntimeError("/home/someone/secret")

    html = panel(finished(runner, work))
    assert 'role="alert"' in html
    assert "secret" not in html


def test_a_job_that_is_done_leaves_the_stage(runner: Runner) -> None:
    assert panel(finished(runner, lambda work: {})) == ""
