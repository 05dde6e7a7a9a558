"""A job, followed from the page: progress with the time left, a preview, a way to stop it, and its end in plain words.

The job runs outside of any event and the browser keeps its token, so a refresh, a second visit or a restart of the
app finds it again. Nothing here knows what the job makes: the tab that started it shows that.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NotFound
from engine.jobs import Job, Progress
from ui.cards import Plain, sentence
from ui.page import Page, explain


class Watch:
    """This browser's latest job of one kind: its progress, and buttons to stop it and to go on with it.

    Create it where the progress should stand. A handler that starts a job returns `start(job)` among its updates and
    has `outputs` among its outputs; `follow` says what the tab shows besides. What is `resumable` can go on after it
    ended early, or be discarded. Without `preview` the tab shows the unfinished picture itself.
    """

    def __init__(
        self, page: Page, kind: str, *, resumable: bool = False, preview: bool = True, every_s: float = 0.7
    ) -> None:
        self.studio, self.app, self.on, self.silent = page.studio, page.app, page.on, page.silent
        self.resumable, self.preview = resumable, preview
        self.token = page.remembered(f"{kind}-job", "")
        self.seen = gr.State("")
        with gr.Column(visible=False, elem_classes=["watch"], elem_id=f"{kind}-watch") as self.box:
            self.panel = Plain()
            with gr.Row(elem_classes=["actions"]):
                self.stop = gr.Button("Stop", variant="stop", size="sm", elem_id=f"{kind}-stop")
                self.resume = gr.Button("Resume", variant="primary", size="sm", visible=False, elem_id=f"{kind}-resume")
                self.discard = gr.Button("Discard", size="sm", visible=False, elem_id=f"{kind}-discard")
        self.timer = page.timer(every_s)
        self.outputs = [self.token, self.seen, self.box, self.panel, self.stop, self.resume, self.discard, self.timer]

    def start(self, job: Job) -> dict[Any, Any]:
        return {self.token: job.token, self.seen: "", **self._show(job)}

    def follow(
        self, show: Callable[..., dict[Any, Any]], outputs: Sequence[Any], inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the progress up to date, and `outputs` with what `show(job, **inputs)` returns when there is news."""

        def poll(*, token: str, seen: str, **values: Any) -> Any:
            if not token:
                return gr.skip()
            try:
                job = self.studio.job(token)
                news = f"{token} {job.state} {len(job.events())}"
                return gr.skip() if news == seen else {self.seen: news, **self._show(job), **show(job, **values)}
            except NotFound:  # its folder is gone, and so is anything to follow
                return self._let_go()
            except Exception as error:
                return {self.timer: gr.Timer(active=False), self.panel: sentence(explain(error), "bad")}

        gr.on(
            [self.app.load, self.timer.tick],
            poll,
            inputs_kwargs={"token": self.token, "seen": self.seen, **(inputs or {})},
            outputs=[*self.outputs, *outputs],
            queue=False,
            **self.silent,
        )
        wire: dict[str, Any] = {"inputs": {"token": self.token}, "outputs": self.outputs, "notice": self.panel}
        self.on(self.stop.click, self._stop, **wire)
        self.on(self.resume.click, self._resume, **wire)
        self.discarded = self.on(
            self.discard.click,
            self._discard,
            js="token => confirm('Discard this for good, with everything it has made so far?') ? token : ''",
            **wire,
        )

    def _stop(self, *, token: str) -> dict[Any, Any]:
        job = self.studio.job(token)
        job.cancel()
        return {self.panel: panel(job, self.preview), self.stop: gr.Button("Stopping …", interactive=False)}

    def _resume(self, *, token: str) -> dict[Any, Any]:
        return self.start(self.studio.resume(token))

    def _discard(self, *, token: str) -> dict[Any, Any]:
        if not token:  # the person thought better of it
            return {}
        self.studio.discard(token)
        return self._let_go()

    def dismiss(self) -> dict[Any, Any]:
        """Put away what a finished job said, once the tab shows something else."""
        return {self.box: gr.Column(visible=False)}

    def _let_go(self) -> dict[Any, Any]:
        return {self.token: "", self.timer: gr.Timer(active=False), **self.dismiss()}

    def _show(self, job: Job) -> dict[Any, Any]:
        can_go_on = self.resumable and job.state in ("interrupted", "cancelled", "failed")
        return {
            self.box: gr.Column(visible=job.state != "done"),
            self.panel: panel(job, self.preview),
            self.stop: gr.Button("Stop", visible=not job.finished, interactive=True),
            self.resume: gr.Button(visible=can_go_on),
            self.discard: gr.Button(visible=can_go_on),
            self.timer: gr.Timer(active=not job.finished),
        }


def panel(job: Job, preview: bool = True) -> str:
    """Where the job stands, as HTML: a bar while it goes, one sentence when it ended early, nothing when it is done."""
    progress = job.progress()
    if job.state == "queued":
        return _bar("Waiting for its turn", "", None)
    if job.state == "running":
        picture = preview_html(progress.preview) if preview and progress.preview else ""
        return _running(progress) + picture
    if job.state == "cancelled":
        reached = f" at step {progress.step} of {progress.total}" if progress.total else ""
        return sentence(f"Stopped{reached}. What was finished before is kept.", "warn")
    return sentence(job.error, "bad") if job.error else ""


def _running(progress: Progress) -> str:
    share = progress.step / progress.total if progress.total else None
    steps = f"{progress.step} of {progress.total}" if progress.total else ""
    if steps in progress.message:
        steps = ""
    left = f"{in_words(progress.eta_s)} left" if progress.eta_s is not None else ""
    return _bar(progress.message or "Working", " · ".join(filter(None, (steps, left))), share)


def _bar(message: str, note: str, share: float | None) -> str:
    """A labelled progress bar; without a `share` it only says that something goes on."""
    percent = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    fill = '<i class="waiting"></i>' if share is None else f'<i style="width:{100 * share:.1f}%"></i>'
    return (
        f'<div class="progress"><p><b>{escape(message)}</b><span>{escape(note)}</span></p>'
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"{percent}'
        f' aria-label="{escape(message)}">{fill}</div></div>'
    )


def preview_html(file: Path) -> str:
    """The picture itself inside the page: it is a few kB, and gone with the next step."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img class="preview" src="data:image/jpeg;base64,{data}" alt="preview">'


def in_words(seconds: float) -> str:
    """A duration as a person says it: `8 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
