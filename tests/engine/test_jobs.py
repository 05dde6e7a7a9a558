import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from engine import jobs
from engine.errors import BadSettings, Cancelled, NoRoom, NotFound, TripodError
from engine.jobs import Job, Runner, Work
from engine.workspace import Workspace, append_line, read_json

TRAINER = """
import sys, time
from pathlib import Path
from engine.errors import BadDataset
from engine.jobs import run_in_process

def train(work):
    checkpoint = work.folder / "checkpoint"
    start = int(checkpoint.read_text()) if checkpoint.exists() else 0
    print("starting at", start)
    if work.request.get("refuse"):
        raise BadDataset("There are 3 photos.", "Add 7 more.")
    if work.request.get("crash"):
        sys.exit(7)
    total = work.request["steps"]
    for step in range(start, total):
        time.sleep(0.01)
        if not work.request.get("deaf"):
            work.check_cancelled()
        checkpoint.write_text(str(step + 1))
        work.progress(step + 1, total, "Training")
    return {"steps": total, "started_at": start}

if __name__ == "__main__":
    sys.exit(run_in_process(Path(sys.argv[1]), train))
"""

LONG = 10_000
"""Steps of a training that does not end by itself during a test."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def runner(workspace: Workspace) -> Runner:
    return Runner(workspace)


@pytest.fixture
def train(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    """Starts process jobs of TRAINER; those that still run at the end of the test are killed."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tiny_trainer.py").write_text(TRAINER)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    yield lambda **request: runner.submit_process("train", request, "tiny_trainer")
    for job in runner.jobs("train"):
        if job.state in ("queued", "running") and (pid := read_json(job.folder / "pid")["pid"]) != os.getpid():
            os.killpg(pid, signal.SIGKILL)


@contextmanager
def busy(runner: Runner) -> Iterator[Job]:
    """The device thread is held by a job during the body."""
    release = threading.Event()

    def work(work: Work) -> dict[str, Any]:
        release.wait(20)
        return {}

    job = runner.submit("busy", {}, work)
    until(lambda: job.state == "running")
    try:
        yield job
    finally:
        release.set()
        job.wait(20)


def until(condition: Callable[[], Any], timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


def kill(job: Job) -> None:
    os.killpg(read_json(job.folder / "pid")["pid"], signal.SIGKILL)


class TestDeviceThread:
    def test_a_job_from_start_to_result(self, runner: Runner) -> None:
        def work(work: Work) -> dict[str, Any]:
            work.started("Making 2 pictures")
            work.progress(1, 2)
            work.metrics(1, loss=0.5)
            work.note("Half way")
            return {"pictures": work.request["names"]}

        job = runner.submit("generate", {"names": ["a", "b"]}, work)
        assert job.result() == {"pictures": ["a", "b"]}
        assert (job.state, job.error, job.kind) == ("done", None, "generate")
        assert job.request == {"names": ["a", "b"]}
        kinds = [event.kind for event in job.events()]
        assert kinds == ["started", "started", "progress", "metrics", "note", "done"]
        assert job.events(after=3)[0].values == {"loss": 0.5}
        assert job.progress().message == "Half way"

    def test_one_thread_started_by_the_first_job_first_in_first_out(self, runner: Runner) -> None:
        before = threading.active_count()
        order: list[tuple[int, int]] = []

        def work(work: Work) -> dict[str, Any]:
            order.append((work.request["number"], threading.get_ident()))
            return {}

        with busy(runner):
            assert threading.active_count() == before + 1
            waiting = [runner.submit("generate", {"number": number}, work) for number in range(3)]
            assert [job.state for job in waiting] == ["queued"] * 3
            assert runner.queue_length() == 4
        for job in waiting:
            job.wait(20)
        assert [number for number, _ in order] == [0, 1, 2]
        assert len({thread for _, thread in order}) == 1
        assert runner.queue_length() == 0
        assert [job.token for job in runner.jobs("generate")] == [job.token for job in reversed(waiting)]

    def test_the_person_gets_the_error_that_the_work_raised(self, runner: Runner) -> None:
        def work(work: Work) -> dict[str, Any]:
            raise BadSettings("The width is 3 px.", "Use 64 or more.")

        job = runner.submit("generate", {}, work).wait(20)
        assert (job.state, job.error) == ("failed", "The width is 3 px. Use 64 or more.")
        with pytest.raises(BadSettings) as caught:
            job.result()
        assert (caught.value.problem, caught.value.remedy) == ("The width is 3 px.", "Use 64 or more.")
        assert not (job.folder / "log.txt").exists()

    def test_an_unexpected_error_is_a_plain_sentence_and_the_next_job_runs(self, runner: Runner) -> None:
        def broken(work: Work) -> dict[str, Any]:
            return {"x": 1 / 0}

        job = runner.submit("generate", {}, broken)
        with pytest.raises(TripodError, match=r"unexpected .*ZeroDivisionError.*log\.txt"):
            job.result()
        log = (job.folder / "log.txt").read_text()
        assert "Traceback" in log
        assert "1 / 0" in log
        assert runner.submit("generate", {}, lambda work: {"fine": True}).result() == {"fine": True}

    def test_a_result_that_is_no_json_fails_the_job_and_the_next_job_runs(self, runner: Runner) -> None:
        assert runner.submit("generate", {}, lambda work: {"x": object()}).wait(20).state == "failed"
        assert runner.submit("generate", {}, lambda work: {}).result() == {}

    def test_out_of_memory(self, runner: Runner) -> None:
        import torch

        def on_gpu(work: Work) -> dict[str, Any]:
            raise torch.OutOfMemoryError("CUDA out of memory")

        def on_cpu(work: Work) -> dict[str, Any]:
            return {"x": torch.empty(10**15)}

        def in_python(work: Work) -> dict[str, Any]:
            return {"x": bytes(10**15)}

        for work in (on_gpu, on_cpu, in_python):
            with pytest.raises(NoRoom, match="smaller size"):
                runner.submit("generate", {}, work).result()

    def test_cancel_while_it_waits_takes_effect_at_once(self, runner: Runner) -> None:
        ran = threading.Event()

        def work(work: Work) -> dict[str, Any]:
            ran.set()
            return {}

        with busy(runner):
            job = runner.submit("generate", {}, work)
            job.cancel()
            assert job.state == "cancelled"
            assert job.events()[-1].kind == "cancelled"
        runner.submit("generate", {}, lambda work: {}).wait(20)
        assert not ran.is_set()

    def test_cancel_while_it_runs(self, runner: Runner) -> None:
        def work(work: Work) -> dict[str, Any]:
            while True:
                time.sleep(0.001)
                work.check_cancelled()

        job = runner.submit("generate", {}, work)
        until(lambda: job.state == "running")
        job.cancel()
        with pytest.raises(Cancelled):
            job.result()
        job.cancel()
        assert [event.kind for event in job.events()] == ["started", "cancelled"]

    def test_cancel_of_a_finished_job_changes_nothing(self, runner: Runner) -> None:
        job = runner.submit("generate", {}, lambda work: {}).wait(20)
        job.cancel()
        assert job.state == "done"

    def test_a_finished_job_keeps_no_file_open(self, runner: Runner) -> None:
        def work(work: Work) -> dict[str, Any]:
            work.progress(1, 2)
            work.preview(Image.new("RGB", (8, 8)))
            return {}

        job = runner.submit("generate", {}, work).wait(20)
        job.progress()
        assert not [file for file in psutil.Process().open_files() if str(job.folder) in file.path]


class TestTokens:
    def test_are_unguessable(self, runner: Runner) -> None:
        tokens = {runner.submit("generate", {}, lambda work: {}).token for _ in range(20)}
        assert len(tokens) == 20
        assert all(len(token) == 22 for token in tokens)  # 16 random bytes in base 64

    @pytest.mark.parametrize("token", ["", "..", "../datasets", "A" * 22, "a/b", "\0"])
    def test_unknown(self, runner: Runner, token: str) -> None:
        with pytest.raises(NotFound):
            runner.job(token)


class TestEvents:
    def test_previews_come_at_most_five_a_second(self, runner: Runner) -> None:
        def work(work: Work) -> dict[str, Any]:
            start_s = time.monotonic()
            for _ in range(100):
                work.preview(Image.new("RGB", (1000, 500), "red"))
            return {"seconds": time.monotonic() - start_s}

        job = runner.submit("generate", {}, work)
        at_most = 1 + 5 * job.result()["seconds"]
        assert 1 <= [event.kind for event in job.events()].count("preview") <= at_most
        preview = job.progress().preview
        assert preview is not None
        with Image.open(preview) as image:
            assert image.size == (512, 256)

    def test_samples_are_kept_exactly(self, runner: Runner) -> None:
        pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)

        def work(work: Work) -> dict[str, Any]:
            for prompt in ("a bear", "a bear on a table"):
                work.sample(100, Image.fromarray(pixels), prompt)
            return {}

        events = runner.submit("train", {}, work).wait(20).events()
        samples = [event for event in events if event.kind == "sample"]
        assert [(event.step, event.message) for event in samples] == [(100, "a bear"), (100, "a bear on a table")]
        assert len({event.files for event in samples}) == 2
        folder = runner.jobs()[0].folder
        with Image.open(folder / samples[1].files[0]) as image:
            assert image.tobytes() == pixels.tobytes()

    def test_a_torn_line_is_skipped_and_later_ones_are_read(self, runner: Runner) -> None:
        with busy(runner) as job:
            log = job.folder / "events.jsonl"
            with log.open("a") as file:
                file.write('{"kind": "progress", "time_s": 1')
            assert [event.kind for event in job.events()] == ["started"]
            append_line(log, json.dumps({"kind": "note", "time_s": 1, "message": "on"}))
            assert [event.kind for event in job.events()] == ["started", "note"]

    def test_a_line_is_read_once_it_is_whole(self, runner: Runner) -> None:
        with busy(runner) as job, (job.folder / "events.jsonl").open("a") as file:
            file.write('{"kind": "note", "time_s": 1, ')
            file.flush()
            assert len(job.events()) == 1
            file.write('"message": "on"}\n')
            file.flush()
            assert job.events()[-1].message == "on"

    def test_lines_are_parsed_once(self, runner: Runner) -> None:
        with busy(runner) as job:
            log = job.folder / "events.jsonl"
            assert len(job.events()) == 1
            log.write_bytes(b"x" * (log.stat().st_size - 1) + b"\n")
            append_line(log, json.dumps({"kind": "note", "time_s": 1}))
            assert [event.kind for event in job.events()] == ["started", "note"]


class TestProgress:
    def report(self, job: Job, reports: Sequence[tuple[float, int, int]]) -> None:
        """Progress events (seconds ago, step, total) as a slow job would have written them."""
        for ago_s, step, total in reports:
            event = {"kind": "progress", "time_s": time.time() - ago_s, "step": step, "total": total}
            append_line(job.folder / "events.jsonl", json.dumps(event))

    def test_eta_is_the_pace_times_the_steps_left(self, runner: Runner) -> None:
        with busy(runner) as job:
            assert job.progress().eta_s is None
            self.report(job, [(20, 1, 10)])
            assert job.progress().eta_s is None  # one report says nothing of the pace
            self.report(job, [(10, 2, 10), (0, 3, 10)])
            assert job.progress().eta_s == pytest.approx(70, abs=0.5)
            assert (job.progress().step, job.progress().total) == (3, 10)

    def test_eta_counts_down_between_reports(self, runner: Runner) -> None:
        with busy(runner) as job:
            self.report(job, [(24, 1, 5), (14, 2, 5), (4, 3, 5)])
            assert job.progress().eta_s == pytest.approx(16, abs=0.5)

    def test_one_long_pause_does_not_sway_it(self, runner: Runner) -> None:
        with busy(runner) as job:
            self.report(job, [(3605, 1, 100), (5, 2, 100), (4, 3, 100), (3, 4, 100), (2, 5, 100), (1, 6, 100)])
            assert job.progress().eta_s == pytest.approx(93, abs=0.5)

    def test_it_follows_the_recent_pace(self, runner: Runner) -> None:
        with busy(runner) as job:
            slow = [(1000 - 10 * step, step, 500) for step in range(1, 60)]
            fast = [(100 - step, step, 500) for step in range(60, 101)]
            self.report(job, slow + fast)
            assert job.progress().eta_s == pytest.approx(400, abs=0.5)

    def test_several_steps_a_report(self, runner: Runner) -> None:
        with busy(runner) as job:
            self.report(job, [(20, 0, 40), (10, 10, 40), (0, 20, 40)])
            assert job.progress().eta_s == pytest.approx(20, abs=0.5)

    def test_a_new_stage_starts_a_new_pace(self, runner: Runner) -> None:
        with busy(runner) as job:
            self.report(job, [(300, 1, 3), (200, 2, 3), (100, 3, 3), (1, 1, 11), (0, 2, 11)])
            assert job.progress().eta_s == pytest.approx(9, abs=0.5)

    def test_none_after_the_end(self, runner: Runner) -> None:
        with busy(runner) as job:
            self.report(job, [(1, 1, 10), (0, 2, 10)])
        assert job.progress().eta_s is None
        assert (job.progress().step, job.progress().total) == (2, 10)


class TestProcess:
    def test_runs_apart_below_the_app_and_ends_with_a_result(self, runner: Runner, train: Callable[..., Job]) -> None:
        job = train(steps=40)
        until(lambda: job.progress().step >= 1)
        process = psutil.Process(read_json(job.folder / "pid")["pid"])
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        assert process.nice() == min(19, psutil.Process().nice() + 5)
        assert job.result() == {"steps": 40, "started_at": 0}
        assert not process.is_running()
        assert job.progress().message == "Training"
        assert "starting at 0" in (job.folder / "log.txt").read_text()

    def test_another_app_sees_it_run_and_finish(self, workspace: Workspace, train: Callable[..., Job]) -> None:
        job = train(steps=60)
        until(lambda: job.progress().step >= 1)
        later = Runner(workspace).job(job.token)
        assert later.state == "running"
        assert later.result() == {"steps": 60, "started_at": 0}

    def test_killed_is_interrupted_and_resumes_where_it_was(
        self, workspace: Workspace, train: Callable[..., Job]
    ) -> None:
        job = train(steps=60)
        until(lambda: job.progress().step >= 20)
        kill(job)
        assert job.wait(20).state == "interrupted"
        assert "interrupted" in str(job.error)
        with pytest.raises(TripodError, match="Resume"):
            job.result()

        resumed = Runner(workspace).resume(job.token)  # by an app that was started since
        assert resumed.state in ("queued", "running")
        result = resumed.result()
        assert result["steps"] == 60
        assert result["started_at"] >= 20
        assert resumed.state == "done"

    def test_cancelled_then_resumed(self, runner: Runner, train: Callable[..., Job]) -> None:
        job = train(steps=50)
        until(lambda: job.progress().step >= 5)
        job.cancel()
        assert job.wait(20).state == "cancelled"
        assert runner.resume(job.token).result()["started_at"] >= 5
        assert job.state == "done"
        with pytest.raises(TripodError, match="done"):
            runner.resume(job.token)

    def test_discarded_it_is_gone_from_disk(self, runner: Runner, train: Callable[..., Job]) -> None:
        job = train(steps=1000)
        until(lambda: job.progress().step)
        with pytest.raises(TripodError, match=r"This job is running\. Stop it first\."):
            runner.discard(job.token)
        job.cancel()
        until(lambda: job.finished)
        runner.discard(job.token)
        assert not job.folder.exists()
        assert runner.jobs() == []
        with pytest.raises(NotFound):
            runner.discard(job.token)

    def test_cancel_kills_what_does_not_listen(
        self, train: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "CANCEL_GRACE_S", 0.2)
        job = train(steps=LONG, deaf=True)
        until(lambda: job.progress().step >= 1)
        pid = read_json(job.folder / "pid")["pid"]
        job.cancel()
        assert job.wait(20).state == "cancelled"
        assert not psutil.pid_exists(pid)

    def test_a_refusal_keeps_its_kind_and_sentence(self, train: Callable[..., Job]) -> None:
        from engine.errors import BadDataset

        job = train(refuse=True)
        with pytest.raises(BadDataset, match=r"There are 3 photos\. Add 7 more\."):
            job.result()

    def test_a_process_that_dies_without_a_word_has_failed(self, runner: Runner, train: Callable[..., Job]) -> None:
        job = train(crash=True).wait(20)
        assert job.state == "failed"
        assert "code 7" in str(job.error)
        missing = runner.submit_process("train", {}, "there_is_no_such_module").wait(20)
        assert missing.state == "failed"
        assert "there_is_no_such_module" in (missing.folder / "log.txt").read_text()

    def test_one_at_a_time_and_the_next_can_be_cancelled_while_it_waits(self, train: Callable[..., Job]) -> None:
        first, second, third = train(steps=LONG), train(steps=5), train(steps=5)
        until(lambda: first.progress().step >= 1)
        assert (second.state, third.state) == ("queued", "queued")
        second.cancel()
        assert second.state == "cancelled"
        first.cancel()
        assert third.result()["steps"] == 5
        assert (first.state, second.state) == ("cancelled", "cancelled")

    def test_a_later_process_with_the_same_pid_is_not_taken_for_it(
        self, workspace: Workspace, train: Callable[..., Job]
    ) -> None:
        job = train(steps=LONG)
        until(lambda: job.progress().step >= 1)
        kill(job)
        job.wait(20)
        owner = read_json(job.folder / "pid") | {"pid": os.getpid()}  # alive, but not started when the trainer was
        (job.folder / "pid").write_text(json.dumps(owner | {"started_s": owner["started_s"] + 3600}))
        assert Runner(workspace).job(job.token).state == "interrupted"


class TestRestart:
    APP = """
import sys, time, pathlib
from engine.jobs import Runner
from engine.workspace import Workspace
runner = Runner(Workspace(pathlib.Path(sys.argv[1])))
runner.submit("done", {}, lambda work: {"x": 1}).wait()
runner.submit("running", {}, lambda work: time.sleep(60))
runner.submit("queued", {}, lambda work: {})
time.sleep(0.2)
print("ready", flush=True)
time.sleep(60)
"""

    def test_what_a_killed_app_left(self, workspace: Workspace) -> None:
        with subprocess.Popen([sys.executable, "-c", self.APP, str(workspace.root)], stdout=subprocess.PIPE) as app:
            assert app.stdout is not None
            assert app.stdout.readline() == b"ready\n"
            meanwhile = Runner(workspace)
            assert {job.kind: job.state for job in meanwhile.jobs()} == {k: k for k in ("done", "running", "queued")}
            app.kill()
        states = {job.kind: job.state for job in Runner(workspace).jobs()}
        assert states == {"done": "done", "running": "interrupted", "queued": "interrupted"}
        assert Runner(workspace).jobs("done")[0].result() == {"x": 1}

    def test_old_jobs_are_deleted_but_not_those_that_run(
        self, workspace: Workspace, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "KEPT_JOBS", 2)
        with busy(runner) as running:
            cancelled = [runner.submit("generate", {}, lambda work: {}) for _ in range(4)]
            for job in cancelled:
                job.cancel()
            kept = {job.token for job in Runner(workspace).jobs()}
            assert kept == {running.token, cancelled[2].token, cancelled[3].token}
            assert set(workspace.job_tokens()) == kept

    def test_old_jobs_are_deleted_in_an_app_that_never_restarts(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "KEPT_JOBS", 3)
        for _ in range(20):
            runner.submit("generate", {}, lambda work: {}).wait(20)
        assert 3 <= len(runner.jobs()) <= 6
