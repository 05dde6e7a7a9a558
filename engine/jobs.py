"""Work that outlasts a click: jobs, their events, and the runner that starts them.

A job is a folder. Whoever opens it, in this process or another, now or after a restart, sees the same state:

    job.json       kind, when it was made, the module that a process job runs
    request.json   what was asked
    pid            who has it: the process, when that started, and whether the job runs or still waits there
    events.jsonl   one Event per line, appended; a line that a kill tore is skipped
    cancel         there once someone asked to stop
    preview.jpg    the latest preview
    result.json    there once the job is done
    log.txt        tracebacks, and whatever the process of a job printed

Pictures are made by one thread, because models stay warm there. A training is a process of its own: killing it returns
its memory, and it outlives the app. Nothing here knows what the work is about.
"""

import errno
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any, Literal

import psutil
from PIL import Image

from engine import errors
from engine.errors import Cancelled, NoRoom, NotFound, TripodError
from engine.settings import Settings
from engine.workspace import Workspace, append_line, atomic_write, now_utc, read_json, write_bytes, write_json

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
EventKind = Literal["started", "progress", "preview", "metrics", "sample", "note", "done", "failed", "cancelled"]

KEPT_JOBS = 200
CANCEL_GRACE_S = 10.0
PREVIEW_INTERVAL_S = 0.2
PREVIEW_SIDE_PX = 512
NICENESS = 5

_ETA_REPORTS = 32
_POLL_S = 0.02
_EXIT_SAID_WHY = 3  # not 1 or 2, which Python itself uses
_CPU_ALLOCATOR = "DefaultCPUAllocator"  # where a RuntimeError of torch means that memory ran out
_PROJECT = Path(__file__).parent.parent

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Event(Settings):
    """One line of a job's story. `files` are paths relative to the job folder.

    A failed event has the whole sentence as its `message`, and apart the kind of TripodError and the remedy in it.
    """

    kind: EventKind
    time_s: float
    step: int = 0
    total: int = 0
    message: str = ""
    values: dict[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    error: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a job is. `eta_s` is None until its pace is known; `preview` is the file of the latest preview, if any."""

    step: int
    total: int
    eta_s: float | None
    message: str
    preview: Path | None


def _append_event(folder: Path, kind: EventKind, **fields: Any) -> None:
    event = Event(kind=kind, time_s=time.time(), **fields)
    line = {name: value for name, value in event.to_dict().items() if value}
    append_line(folder / "events.jsonl", json.dumps(line, ensure_ascii=False))


def _append_failure(folder: Path, failure: TripodError) -> None:
    kind = type(failure).__name__
    _append_event(folder, "failed", message=str(failure), error=kind, remedy=failure.remedy)


class Work:
    """What a running job is handed, in the device thread and in the process of a training alike."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder = folder
        self.request = request
        self._next_preview_s = 0.0
        self._samples: Counter[int] = Counter()

    def started(self, message: str) -> None:
        """Say what is being done; the pace is measured anew from here."""
        _append_event(self.folder, "started", message=message)

    def progress(self, step: int, total: int, message: str = "") -> None:
        _append_event(self.folder, "progress", step=step, total=total, message=message)

    def preview(self, image: Image.Image) -> None:
        """Show an unfinished picture; those that come faster than five a second are dropped."""
        if time.monotonic() < self._next_preview_s:
            return
        self._next_preview_s = time.monotonic() + PREVIEW_INTERVAL_S
        small = image.convert("RGB")
        small.thumbnail((PREVIEW_SIDE_PX, PREVIEW_SIDE_PX))
        with atomic_write(self.folder / "preview.jpg") as staged:
            small.save(staged, "JPEG", quality=80)
        _append_event(self.folder, "preview", files=("preview.jpg",))

    def metrics(self, step: int, **values: float) -> None:
        _append_event(self.folder, "metrics", step=step, values=values)

    def sample(self, step: int, image: Image.Image, message: str) -> None:
        """Keep a picture of this step; after a resume, the samples of a repeated step replace the earlier ones."""
        name = f"sample-{step:06d}-{self._samples[step]}.png"
        self._samples[step] += 1
        with atomic_write(self.folder / name) as staged:
            image.save(staged, "PNG")
        _append_event(self.folder, "sample", step=step, message=message, files=(name,))

    def note(self, message: str) -> None:
        _append_event(self.folder, "note", message=message)

    @property
    def cancelled(self) -> bool:
        return (self.folder / "cancel").exists()

    def check_cancelled(self) -> None:
        """Call between steps. Raises: Cancelled."""
        if self.cancelled:
            raise Cancelled


class Job:
    """A view on a job folder; it may be polled often, by any thread. Made by Runner only."""

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / "job.json")
        self.folder = folder
        self.token = folder.name
        self.kind: str = about["kind"]
        self.created: str = about["created"]
        self.module: str | None = about["module"]
        self._lock = threading.RLock()
        self._attended = (
            False  # the runner has it in hand, so that the moment after its process ends is no interruption
        )
        self._events: list[Event] = []
        self._read_bytes = 0

    @property
    def request(self) -> dict[str, Any]:
        return read_json(self.folder / "request.json")

    @property
    def state(self) -> State:
        if end := self._end_state():
            return end
        owner = _Owner.of(self.folder)
        if owner and (self._attended or owner.lives()):
            return "running" if owner.running else "queued"
        return self._end_state() or "interrupted"  # it may have come to its end since the first look

    def _end_state(self) -> State | None:
        if (self.folder / "result.json").exists():
            return "done"
        events = self.events()
        return last if events and (last := events[-1].kind) in ("failed", "cancelled") else None

    @property
    def finished(self) -> bool:
        """Nothing more will happen, unless it is resumed."""
        return self.state not in ("queued", "running")

    def events(self, after: int = 0) -> list[Event]:
        """All events but the first `after`."""
        self._read_new_events()
        return self._events[after:]

    def _read_new_events(self) -> None:
        path = self.folder / "events.jsonl"
        with self._lock:
            if not path.exists() or path.stat().st_size == self._read_bytes:
                return
            with path.open("rb") as file:
                file.seek(self._read_bytes)
                new = file.read()
            whole, newline, _ = new.rpartition(b"\n")
            self._read_bytes += len(whole) + len(newline)
            self._events += [event for line in whole.splitlines() if (event := _parse_event(line))]

    def progress(self) -> Progress:
        events = self.events()
        latest = next((event for event in reversed(events) if event.kind == "progress"), None)
        messages = (event.message for event in reversed(events) if event.message and event.kind != "sample")
        preview = self.folder / "preview.jpg"
        return Progress(
            step=latest.step if latest else 0,
            total=latest.total if latest else 0,
            eta_s=_eta_s(events),
            message=next(messages, ""),
            preview=preview if preview.exists() else None,
        )

    @property
    def error(self) -> str | None:
        """The sentence to show when the job failed or was interrupted."""
        return str(self._failure(self.state)) if self.state in ("failed", "interrupted") else None

    def result(self) -> dict[str, Any]:
        """Wait for the end. Raises: the TripodError that the work raised; Cancelled; TripodError if interrupted."""
        state = self.wait().state
        if state != "done":
            raise self._failure(state)
        return read_json(self.folder / "result.json")

    def _failure(self, state: State) -> TripodError:
        if state == "cancelled":
            return Cancelled()
        if state == "interrupted":
            return TripodError("It was interrupted: its process is gone.", "Resume it, or start it again.")
        failed = self.events()[-1]
        return getattr(errors, failed.error)(failed.message.removesuffix(f" {failed.remedy}"), failed.remedy)

    def wait(self, timeout_s: float | None = None) -> "Job":
        """Return when the job is finished and its process gone, or after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while (self._attended or not self.finished) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return self

    def cancel(self) -> None:
        """Ask it to stop: at once if it waits, else at its next step. A process that goes on after 10 s is killed."""
        with self._lock:
            if self.finished:
                return
            write_bytes(self.folder / "cancel", b"")
            if self.state == "queued":
                _append_event(self.folder, "cancelled", message=str(Cancelled()))
            elif self.module:
                killer = threading.Timer(CANCEL_GRACE_S, self._kill)
                killer.daemon = True
                killer.start()

    def _kill(self) -> None:
        with self._lock:
            if self.state == "running" and (owner := _Owner.of(self.folder)):
                os.killpg(owner.pid, signal.SIGKILL)
                _append_event(self.folder, "cancelled", message=str(Cancelled()))

    # What the runner does with it

    def _begin(self) -> None:
        self._attended = True
        _append_event(self.folder, "started")

    def _end(self) -> None:
        with self._lock:
            self._attended = False


@dataclass(frozen=True)
class _Owner:
    """The process that has a job, told apart from a later one with the same pid by when it started."""

    pid: int
    started_s: float  # since boot, which changes of the clock leave alone
    running: bool

    @staticmethod
    def of(folder: Path) -> "_Owner | None":
        try:
            return _Owner(**read_json(folder / "pid"))
        except FileNotFoundError:  # it has ended in the device thread
            return None

    @staticmethod
    def claim(folder: Path, pid: int, *, running: bool) -> None:
        started_s = psutil.Process(pid).create_time() - psutil.boot_time()
        write_json(folder / "pid", {"pid": pid, "started_s": started_s, "running": running})

    def lives(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            started_s = process.create_time() - psutil.boot_time()
            return abs(started_s - self.started_s) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _parse_event(line: bytes) -> Event | None:
    try:
        return Event.from_dict(json.loads(line))
    except ValueError:  # torn by a kill
        return None


def _eta_s(events: list[Event]) -> float | None:
    """Steps left times the median seconds per step of the latest reports, less the time since the last of them."""
    reports: list[Event] = []
    for event in reversed(events):
        if event.kind in ("started", "done", "failed", "cancelled") or len(reports) > _ETA_REPORTS:
            break
        if event.kind != "progress" or (reports and event.step == reports[-1].step):
            continue
        if reports and (event.total != reports[-1].total or event.step > reports[-1].step):
            break
        reports.append(event)
    if len(reports) < 2:
        return None
    pace_s = median((late.time_s - early.time_s) / (late.step - early.step) for late, early in pairwise(reports))
    latest = reports[0]
    return max(0.0, (latest.total - latest.step) * pace_s - (time.time() - latest.time_s))


def _perform(work: Work, do: Callable[[Work], dict[str, Any]]) -> bool:
    """Do the work and write down how it ended; returns whether it was done."""
    try:
        write_json(work.folder / "result.json", do(work))
    except Cancelled as error:
        _append_event(work.folder, "cancelled", message=str(error))
        return False
    except Exception as error:
        failure = _in_plain_words(error)
        if failure is not error:
            append_line(work.folder / "log.txt", traceback.format_exc())
        _append_failure(work.folder, failure)
        return False
    _append_event(work.folder, "done")
    return True


def _in_plain_words(error: Exception) -> TripodError:
    if isinstance(error, TripodError):
        return error
    if ran_out_of_memory(error):
        return NoRoom(
            "The device has not enough memory left for this.",
            "Choose a smaller size or batch, or wait until the other jobs are done.",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return NoRoom("The disk is full.", "Delete pictures, datasets or LoRAs that you no longer need.")
    return _unexpected(type(error).__name__)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether the computer or the device had not enough memory for what raised this."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _CPU_ALLOCATOR in str(error)


def _unexpected(what: str) -> TripodError:
    return TripodError(
        f"Something unexpected went wrong ({what}).",
        "Try again; if it comes back, the details are in the job's log.txt.",
    )


def run_in_process(folder: Path, work: Callable[[Work], dict[str, Any]]) -> int:
    """The `main()` of a process job: do what `folder`'s request asks; returns the exit code, 0 when it is done."""
    _Owner.claim(folder, os.getpid(), running=True)
    return 0 if _perform(Work(folder, read_json(folder / "request.json")), work) else _EXIT_SAID_WHY


class _Lane:
    """One daemon thread, started by its first task, that does tasks first in, first out."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()

    def put(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._tasks.get()()
            except Exception:  # such as a full disk, where not even the failure could be written down
                log.exception("A job could not be brought to its end")


class Runner:
    """Starts jobs: work for the device in one thread, processes one at a time; knows all jobs of the workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()
        self._device = _Lane("device")
        self._processes = _Lane("processes")
        self._forget_old_jobs()

    def submit(self, kind: str, request: dict[str, Any], work: Callable[[Work], dict[str, Any]]) -> Job:
        """Queue work for the device thread."""
        job = self._new_job(kind, request, None)
        self._device.put(partial(self._run_here, job, work))
        return job

    def submit_process(self, kind: str, request: dict[str, Any], module: str) -> Job:
        """Queue `python -m module FOLDER`, whose main calls `run_in_process`."""
        job = self._new_job(kind, request, module)
        self._processes.put(partial(self._run_process, job, module))
        return job

    def resume(self, token: str) -> Job:
        """Start the process of an interrupted, stopped or failed process job again, in its folder. Raises: NotFound."""
        job = self.job(token)
        with job._lock:
            if job.module is None or job.state not in ("interrupted", "cancelled", "failed"):
                raise TripodError(f"This job is {job.state} and cannot be resumed.", "Start it anew.")
            (job.folder / "cancel").unlink(missing_ok=True)
            _Owner.claim(job.folder, os.getpid(), running=False)
            _append_event(job.folder, "note", message="Waiting to go on.")
        self._processes.put(partial(self._run_process, job, job.module))
        return job

    def discard(self, token: str) -> None:
        """Remove a job that is finished, folder and all. Raises: NotFound; TripodError while it goes on."""
        job = self.job(token)
        if not job.finished:
            raise TripodError(f"This job is {job.state}.", "Stop it first.")
        job.wait()  # its process may be on its way out
        with self._lock:
            self._workspace.delete_job(token)
            del self._jobs[token]

    def job(self, token: str) -> Job:
        """Raises: NotFound."""
        with self._lock:
            if token not in self._jobs:
                if not self._workspace.has_job(token):
                    raise NotFound("There is no job with this token here.", "Check that it was copied whole.")
                self._jobs[token] = Job(self._workspace.job_folder(token))
            return self._jobs[token]

    def jobs(self, kind: str | None = None) -> list[Job]:
        """Newest first."""
        with self._lock:
            jobs = [self.job(token) for token in self._workspace.job_tokens()]
        wanted = (job for job in jobs if kind in (None, job.kind))
        return sorted(wanted, key=lambda job: job.created, reverse=True)

    def queue_length(self) -> int:
        """How many jobs wait or run."""
        return sum(not job.finished for job in self.jobs())

    def _forget_old_jobs(self) -> None:
        with self._lock:
            for job in self.jobs()[KEPT_JOBS:]:
                if job.finished:
                    self._workspace.delete_job(job.token)
                    del self._jobs[job.token]

    def _new_job(self, kind: str, request: dict[str, Any], module: str | None) -> Job:
        folder = self._workspace.job_folder(secrets.token_urlsafe(16))
        write_json(folder / "request.json", request)
        _Owner.claim(folder, os.getpid(), running=False)
        write_json(folder / "job.json", {"kind": kind, "created": now_utc(), "module": module})  # now it is a job
        if len(self._jobs) >= 2 * KEPT_JOBS:
            self._forget_old_jobs()
        return self.job(folder.name)

    def _run_here(self, job: Job, work: Callable[[Work], dict[str, Any]]) -> None:
        with job._lock:
            if job.state != "queued":  # cancelled while it waited
                return
            job._begin()
            _Owner.claim(job.folder, os.getpid(), running=True)
        try:
            _perform(Work(job.folder, job.request), work)
        finally:
            job._end()
            (job.folder / "pid").unlink()  # else a job that could not even write down its failure would seem to run

    def _run_process(self, job: Job, module: str) -> None:
        while any(other.module and other.state == "running" for other in self.jobs()):  # left by an app before this one
            time.sleep(0.5)
        try:
            with job._lock:
                if job.state != "queued":
                    return
                job._begin()
                process = _start_process(job.folder, module)
                _Owner.claim(job.folder, process.pid, running=True)
            exit_code = process.wait()
            if exit_code > 0 and exit_code != _EXIT_SAID_WHY:
                raise _unexpected(f"its process ended with code {exit_code}")
        except Exception as error:
            _append_failure(job.folder, _in_plain_words(error))
        finally:
            job._end()


def _start_process(folder: Path, module: str) -> subprocess.Popen[bytes]:
    """Start `module` in a process group of its own, which a signal to the app does not reach and a kill takes whole."""
    with (folder / "log.txt").open("ab") as log_file:
        return subprocess.Popen(
            ["nice", "-n", str(NICENESS), sys.executable, "-u", "-m", module, str(folder)],
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
