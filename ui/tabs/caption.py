"""The Captions tab: the trigger word and class, who writes, and every photo beside its caption."""

import re
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from engine.jobs import Job
from engine.settings import CaptionSettings
from engine.workspace import Dataset, Photo
from ui import form
from ui.cards import Plain, headline, label, sentence, url
from ui.crop import window
from ui.page import Page
from ui.tabs.dataset import SIDE_PX
from ui.watch import Watch

EVENTS = """
element.addEventListener('change', event => {
    if (event.target.matches('textarea')) trigger('submit', {id: event.target.dataset.id, text: event.target.value});
});
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button) trigger('click', {id: button.dataset.id});
});
"""


class CaptionTab:
    name, title = "captions", "Captions"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        captioners = [(captioner.title, captioner.name) for captioner in self.studio.captioners()]
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=5, elem_classes=["sheet"]):
                headline(
                    "Say what is in each photo", "Name your subject; Tripod describes the rest, and you correct it."
                )
                with gr.Row():
                    self.trigger = form.build(CaptionSettings, "trigger", min_width=140, elem_id="trigger")
                    self.class_name = form.build(CaptionSettings, "class_name", min_width=140, elem_id="class-name")
                self.captioner = form.build(CaptionSettings, "captioner", choices=captioners)
                with gr.Row():
                    self.all = gr.Button("Caption all", min_width=120, elem_id="caption-all")
                    self.empty = gr.Button("Only the empty ones", min_width=120)
                self.watch = Watch(page, "caption")
                self.notice = Plain(elem_id="captions-notice")
                label("Find and replace in all captions")
                with gr.Row():
                    self.find = gr.Textbox(label="Find", min_width=120)
                    self.replacement = gr.Textbox(label="Replace with", min_width=120)
                self.replace = gr.Button("Replace", size="sm")
            with gr.Column(scale=7):
                self.warning = Plain()
                self.rows = Plain(js_on_load=EVENTS, elem_id="captions")
                self.next = gr.Button(
                    "Train", variant="primary", interactive=False, elem_id="to-train", elem_classes=["next"]
                )
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        page, here = self.page, {"dataset_id": self.page.dataset}
        on = partial(page.on, notice=self.notice)
        captions = [self.rows, self.warning, self.next]
        subject = {"trigger": self.trigger, "class_name": self.class_name, **here}
        job = {"inputs": {"captioner": self.captioner, **subject}, "outputs": self.watch.outputs}
        on([page.app.load, tab.select], self.show, inputs=here, outputs=[self.trigger, self.class_name, *captions])
        on([self.trigger.blur, self.class_name.blur], self.describe, inputs=subject, outputs=captions)
        on(self.all.click, self.caption, **job)
        on(self.empty.click, self.caption_empty, **job)
        on(self.rows.click, self.caption_one, **job)
        on(self.rows.submit, self.save, inputs=here, outputs=captions)
        on(
            self.replace.click,
            self.replace_all,
            inputs={"find": self.find, "replacement": self.replacement, **here},
            outputs=captions,
        )
        on(self.next.click, lambda: page.go("train"), outputs=[page.tabs])
        self.watch.follow(self.follow, captions, here)

    # Handlers

    def describe(self, *, dataset_id: str, trigger: str, class_name: str) -> dict[Any, Any]:
        if not dataset_id:
            return {}
        dataset = self.studio.describe_dataset(dataset_id, trigger=trigger.strip(), class_name=class_name.strip())
        return self._captions(dataset)

    def caption(self, **settings: Any) -> dict[Any, Any]:
        return self._caption(**settings)

    def caption_empty(self, **settings: Any) -> dict[Any, Any]:
        return self._caption(only_empty=True, **settings)

    def caption_one(self, event: gr.EventData, **settings: Any) -> dict[Any, Any]:
        return self._caption(photos=(event.id,), **settings)

    def _caption(self, *, dataset_id: str, **settings: Any) -> dict[Any, Any]:
        return self.watch.start(self.studio.caption(CaptionSettings(dataset=dataset_id, **settings)))

    def save(self, event: gr.EventData, *, dataset_id: str) -> dict[Any, Any]:
        return self._captions(self.studio.set_caption(dataset_id, event.id, event.text.strip()))

    def replace_all(self, *, dataset_id: str, find: str, replacement: str) -> dict[Any, Any]:
        dataset, changed = self.studio.replace_in_captions(dataset_id, find, replacement)
        said = f"{changed} captions changed." if changed != 1 else "One caption changed."
        return {self.notice: sentence(said), **self._captions(dataset)}

    def follow(self, job: Job, *, dataset_id: str) -> dict[Any, Any]:
        is_shown = job.request["dataset"] == dataset_id
        return self._captions(self.studio.dataset(dataset_id)) if is_shown else {}

    # What it looks like

    def show(self, *, dataset_id: str) -> dict[Any, Any]:
        if not dataset_id:
            empty = '<p class="empty">Choose photos first: the captions appear here beside them.</p>'
            return {self.rows: empty, self.warning: "", self.next: gr.Button("Train", interactive=False)}
        dataset = self.studio.dataset(dataset_id)
        return {self.trigger: dataset.trigger, self.class_name: dataset.class_name, **self._captions(dataset)}

    def _captions(self, dataset: Dataset) -> dict[Any, Any]:
        return {
            self.rows: self._rows(dataset),
            self.warning: warning(dataset),
            self.next: gr.Button(f"Train on {len(dataset.photos)} photos", interactive=bool(dataset.photos)),
        }

    def _rows(self, dataset: Dataset) -> str:
        return "".join(self._row(photo, dataset.trigger) for photo in dataset.photos)

    def _row(self, photo: Photo, trigger: str) -> str:
        """The caption stands in an attribute too: that is what the page compares to tell whether the text is new."""
        image, caption = url(self.studio.thumbnail(photo.image, SIDE_PX)), escape(photo.caption)
        return (
            f'<div class="caption"><span class="frame windowed"><img src="{image}" alt="" loading="lazy"'
            f' style="{window(photo).style}"></span><div><textarea rows="3" data-id="{escape(photo.id)}"'
            f' value="{caption}" aria-label="Caption of {escape(photo.file)}"'
            f' placeholder="No caption yet">{caption}</textarea>'
            f'<p>{_mark(photo, trigger)}<button type="button" data-id="{escape(photo.id)}">Write this one</button></p>'
            "</div></div>"
        )


def has_trigger(photo: Photo, trigger: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", photo.caption, re.IGNORECASE) is not None


def _mark(photo: Photo, trigger: str) -> str:
    """The trigger word of a caption, or that it lacks it."""
    if not photo.caption or not trigger:
        return ""
    if has_trigger(photo, trigger):
        return f'<span class="mark good">{escape(trigger)}</span>'
    return f'<span class="mark warn">without “{escape(trigger)}”</span>'


def warning(dataset: Dataset) -> str:
    """What keeps the captions from teaching the trigger word, in a sentence."""
    empty = sum(not photo.caption for photo in dataset.photos)
    missing = sum(bool(photo.caption) and not has_trigger(photo, dataset.trigger) for photo in dataset.photos)
    if missing:
        lacking = f"{missing} captions lack" if missing > 1 else "One caption lacks"
        return sentence(
            f"{lacking} the trigger word “{dataset.trigger}”. Write them again, or put it in by hand.", "warn"
        )
    if empty:
        return sentence(
            f"{empty} photos have no caption yet." if empty > 1 else "One photo has no caption yet.", "warn"
        )
    return ""
