"""The Photos tab: photos in, the squares they will be trained as, what to mend, and the crop of each."""

import time
from collections import defaultdict
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.dataset import Advice, OnPhoto
from engine.errors import BadDataset, NotFound
from engine.workspace import Dataset, Photo
from ui.cards import Card, Choice, Plain, grid, headline, label, listing, sentence, url
from ui.crop import SMALLEST, CropView, crop_box, crop_view, dragged, sliders, window
from ui.page import PROGRESS, Page, into_view
from ui.watch import in_words

SIDE_PX = 512
BADGE_LENGTH = 16
ADVICE_THUMBNAILS = 5

# On a phone the photos are below the fold.
SHOW_PHOTOS = """() => {
    const photos = document.getElementById('photo-grid');
    if (photos.getBoundingClientRect().top > innerHeight * 0.8) photos.scrollIntoView({behavior: 'smooth'});
}"""

photo_grid = partial(grid, look="squares", empty="Your photos appear here, as the squares they are trained as.")


class DatasetTab:
    """`photo` is the id of the photo in the crop editor; `found` what the last check said, for the badges."""

    name, title = "photos", "Photos"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        self.photo = gr.State("")
        self.found = gr.State([])
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=5, elem_classes=["sheet"]):
                headline("Show Tripod your subject", "Drop 10 to 25 photos of one thing, or start from a sample.")
                self.drop = gr.File(
                    label="Photos, or a zip of them",
                    file_count="multiple",
                    height=150,
                    elem_id="photo-drop",
                )
                self.working = Plain(elem_classes=["counting"])
                self.notice = Plain(elem_id="photos-notice")
                label("Or start from a sample")
                self.samples = Choice(grid(self._sample_cards(), "tiles"), elem_id="sample-subjects")
                with gr.Column(visible=False) as self.sets:
                    label("Your photo sets")
                    with gr.Row(equal_height=True):
                        self.chooser = gr.Dropdown([], label="At work on", min_width=140, elem_id="photo-set")
                        self.set_name = gr.Textbox(label="Its name", min_width=140, elem_id="photo-set-name")
                    with gr.Row():
                        self.fresh = gr.Button("New set", size="sm", min_width=120)
                        self.forget = gr.Button("Delete this set", size="sm", variant="stop", min_width=120)
            with gr.Column(scale=7):
                self.advice = Plain(elem_id="advice")
                with gr.Column(visible=False, elem_classes=["sheet"], elem_id="crop-editor") as self.editor:
                    self.about = Plain()
                    self.crop_view = CropView(elem_id="crop-view")
                    percent = partial(gr.Slider, maximum=100, step=0.1, buttons=[], min_width=200)
                    with gr.Row():
                        self.size = percent(100 * SMALLEST, label="Size, %", elem_id="crop-size")
                        self.across = percent(0, label="Left to right, %", elem_id="crop-across")
                        self.down = percent(0, label="Top to bottom, %", elem_id="crop-down")
                    with gr.Row():
                        self.remove = gr.Button("Remove this photo", size="sm", variant="stop", min_width=120)
                        self.close = gr.Button("Done", size="sm", min_width=120)
                self.grid = Choice(photo_grid([]), elem_id="photo-grid")
                self.next = gr.Button(
                    "Caption the photos",
                    variant="primary",
                    interactive=False,
                    elem_id="to-captions",
                    elem_classes=["next"],
                )
        self.shown = [page.dataset, self.sets, self.chooser, self.set_name, self.forget, self.grid]
        self.shown += [self.editor, self.photo, self.next]
        self._wire()

    def _sample_cards(self) -> list[Card]:
        return [
            Card(id=subject.name, title=subject.title, note=f"{len(subject.photos)} photos", image=subject.photos[0])
            for subject in self.studio.samples().subjects
        ]

    def _wire(self) -> None:
        page, here = self.page, {"dataset_id": self.page.dataset}
        edited = {"photo_id": self.photo, "found": self.found, **here}
        on, then = partial(page.on, notice=self.notice), partial(page.then, notice=self.notice)
        added = on(
            self.drop.upload,
            self.add,
            inputs={"files": self.drop, **here},
            outputs=self.shown,
            show_progress="full",
            show_progress_on=self.working,
        )
        added.then(js=SHOW_PHOTOS)
        added.then(lambda: None, outputs=self.drop, **page.silent)
        sampled = on(
            self.samples.select,
            self.add_sample,
            outputs=self.shown,
            show_progress="full",
            show_progress_on=self.working,
        )
        sampled.then(js=SHOW_PHOTOS)
        for event in (
            added,
            sampled,
            on(self.chooser.input, self.choose, inputs={"chosen": self.chooser}, outputs=self.shown),
            on(page.app.load, self.reload, inputs=here, outputs=self.shown),
            on(
                self.remove.click,
                self.remove_photo,
                inputs={"photo_id": self.photo, **here},
                outputs=self.shown,
            ),
            on(self.close.click, self.reload, inputs=here, outputs=self.shown),
        ):
            then(
                event,
                self.check,
                inputs=here,
                outputs=[self.advice, self.found, self.grid],
                show_progress="full",
                show_progress_on=self.working,
            )
        on(self.fresh.click, self.choose, outputs=[*self.shown, self.advice])
        on(
            self.forget.click,
            self.delete,
            inputs=here,
            outputs=[*self.shown, self.advice],
            js="id => confirm('Delete this photo set and its captions?') ? id : ''",
        )
        on(
            [self.set_name.submit, self.set_name.blur],
            self.rename,
            inputs={"name": self.set_name, **here},
            outputs=[self.chooser],
        )
        on(
            self.grid.select,
            self.open_editor,
            inputs={"found": self.found, **here},
            outputs=[*self.shown, self.crop_view, self.about, self.size, self.across, self.down],
        ).then(js=into_view("crop-editor"))
        on(
            [self.size.input, self.across.input, self.down.input],
            self.crop,
            inputs={"size": self.size, "across": self.across, "down": self.down, **edited},
            outputs=[self.crop_view, self.grid],
            queue=False,
            trigger_mode="always_last",
        )
        on(
            self.crop_view.release,
            self.crop_dragged,
            inputs=edited,
            outputs=[self.grid, self.size, self.across, self.down],
            queue=False,
        )
        on(self.next.click, lambda: page.go("captions"), outputs=[page.tabs])

    # Handlers

    def add(
        self,
        progress: gr.Progress = PROGRESS,
        *,
        files: list[str],
        dataset_id: str,
    ) -> dict[Any, Any]:
        dataset_id = dataset_id or self.studio.new_dataset("My photos").id
        photos = [Path(file) for file in files]
        try:
            _, refusals = self.studio.add_photos(dataset_id, photos, counted(progress, "Reading photos"))
            reasons = [refusal.reason for refusal in refusals]
        except BadDataset as error:  # too many: a set that was made for them is there still
            reasons = [str(error)]
        return {self.notice: listing(("bad", reason) for reason in reasons), **self.show(dataset_id)}

    def add_sample(self, event: gr.EventData, progress: gr.Progress = PROGRESS) -> dict[Any, Any]:
        return self.show(self.studio.add_sample(event.id, counted(progress, "Reading photos")).id)

    def choose(self, *, chosen: str = "") -> dict[Any, Any]:
        return self.show(chosen)

    def reload(self, *, dataset_id: str) -> dict[Any, Any]:
        known = {dataset.id for dataset in self.studio.datasets()}
        return self.show(dataset_id if dataset_id in known else "")

    def rename(self, *, name: str, dataset_id: str) -> dict[Any, Any]:
        if dataset_id and name.strip():
            self.studio.describe_dataset(dataset_id, name=name.strip())
        return {self.chooser: self._chooser(dataset_id)}

    def delete(self, *, dataset_id: str) -> dict[Any, Any]:
        if not dataset_id:  # the person thought better of it
            return {}
        self.studio.delete_dataset(dataset_id)
        return self.show("")

    def check(self, progress: gr.Progress = PROGRESS, *, dataset_id: str) -> dict[Any, Any]:
        if not dataset_id:
            return {self.advice: "", self.found: []}
        dataset = self.studio.dataset(dataset_id)
        found = self.studio.check(dataset_id, counted(progress, "Looking at photos"))
        return {self.advice: self._advice(dataset, found), self.found: found, self.grid: self._cards(dataset, found)}

    def open_editor(self, event: gr.EventData, *, found: list[Advice], dataset_id: str) -> dict[Any, Any]:
        dataset = self.studio.dataset(dataset_id)
        photo = _photo(dataset, event.id)
        return {
            **self.show(dataset_id, photo.id, found),
            self.crop_view: self._crop_view(photo),
            self.about: f"<h3>{escape(photo.file)}</h3>"
            + listing((a.level, a.text) for a in found if photo.id in a.photos),
            **self._sliders(photo),
        }

    def crop(
        self, *, dataset_id: str, photo_id: str, found: list[Advice], size: float, across: float, down: float
    ) -> dict[Any, Any]:
        photo = _photo(self.studio.dataset(dataset_id), photo_id)
        dataset = self.studio.set_crop(dataset_id, photo_id, crop_box(photo, size, across, down))
        return {
            self.crop_view: self._crop_view(_photo(dataset, photo_id)),
            self.grid: self._cards(dataset, found, photo_id),
        }

    def crop_dragged(
        self, event: gr.EventData, *, dataset_id: str, photo_id: str, found: list[Advice]
    ) -> dict[Any, Any]:
        """The photo itself is left alone: it shows the square already, and may be in the hand again."""
        crop = dragged(_photo(self.studio.dataset(dataset_id), photo_id), event.left, event.top, event.side)
        dataset = self.studio.set_crop(dataset_id, photo_id, crop)
        return {self.grid: self._cards(dataset, found, photo_id), **self._sliders(_photo(dataset, photo_id))}

    def remove_photo(self, *, dataset_id: str, photo_id: str) -> dict[Any, Any]:
        self.studio.remove_photo(dataset_id, photo_id)
        return self.show(dataset_id)

    # What it looks like

    def show(self, dataset_id: str, photo_id: str = "", found: list[Advice] | None = None) -> dict[Any, Any]:
        """Everything about the set in hand, with the editor open on the photo `photo_id`."""
        dataset = self.studio.dataset(dataset_id) if dataset_id else None
        photos = dataset.photos if dataset else ()
        return {
            self.page.dataset: dataset_id,
            self.sets: gr.Column(visible=bool(self.studio.datasets())),
            self.chooser: self._chooser(dataset_id),
            self.set_name: dataset.name if dataset else "",
            self.forget: gr.Button(visible=dataset is not None),
            self.grid: self._cards(dataset, found or [], photo_id) if dataset else photo_grid([]),
            self.photo: photo_id,
            self.editor: gr.Column(visible=bool(photo_id)),
            self.next: gr.Button(
                f"Caption {len(photos)} photos" if photos else "Caption the photos", interactive=bool(photos)
            ),
        }

    def _chooser(self, dataset_id: str) -> gr.Dropdown:
        sets = [(f"{dataset.name} ({len(dataset.photos)})", dataset.id) for dataset in self.studio.datasets()]
        return gr.Dropdown(sets, value=dataset_id or None)

    def _crop_view(self, photo: Photo) -> str:
        return crop_view(photo, url(self.studio.thumbnail(photo.image, SIDE_PX)))

    def _sliders(self, photo: Photo) -> dict[Any, Any]:
        places = (self.size, self.across, self.down)
        return {place: round(percent, 1) for place, percent in zip(places, sliders(photo), strict=True)}

    def _cards(self, dataset: Dataset, found: list[Advice], photo_id: str = "") -> str:
        about: dict[str, list[Advice]] = defaultdict(list)
        for advice in found:
            for photo in advice.photos if advice.level != "good" else ():
                about[photo].append(advice)
        cards = [
            Card(
                id=photo.id,
                image=self.studio.thumbnail(photo.image, SIDE_PX),
                window=window(photo),
                badge=badge(about[photo.id]),
                level="warn" if all(a.level == "warn" for a in about[photo.id]) else "bad",
                hint=" ".join([photo.file, *(a.text for a in about[photo.id])]),
                chosen=photo.id == photo_id,
            )
            for photo in dataset.photos
        ]
        return photo_grid(cards)

    def _advice(self, dataset: Dataset, found: list[Advice]) -> str:
        """The headline, then each piece of advice with the photos it is about."""
        lines = []
        for advice in found:
            photos = [photo for photo in dataset.photos if photo.id in advice.photos]
            shown = "".join(
                f'<img src="{url(self.studio.thumbnail(photo.image, 96))}" alt="{escape(photo.file)}">'
                for photo in photos[:ADVICE_THUMBNAILS]
            )
            more = f"<b>+{len(photos) - ADVICE_THUMBNAILS}</b>" if len(photos) > ADVICE_THUMBNAILS else ""
            lines.append(f'<div class="advice {advice.level}">{sentence(advice.text, advice.level)}{shown}{more}</div>')
        return "".join(lines)


def counted(progress: gr.Progress, what: str) -> OnPhoto:
    """Shows how many photos are done, of how many, and the time left at the pace so far."""
    began_s = time.monotonic()

    def report(done: int, total: int) -> None:
        left_s = (time.monotonic() - began_s) / max(1, done) * (total - done)
        left = f", {in_words(left_s)} left" if done else ""
        progress((done, total), desc=f"{what}: {done + 1} of {total}{left}")

    return report


def badge(about: list[Advice]) -> str:
    """What is wrong with a photo, in a word or two: the report says that first, before a colon."""
    if not about:
        return ""
    problem, _, _ = about[0].text.partition(":")
    return problem if len(problem) <= BADGE_LENGTH else "Look"


def _photo(dataset: Dataset, photo_id: str) -> Photo:
    for photo in dataset.photos:
        if photo.id == photo_id:
            return photo
    raise NotFound(f"The photo {photo_id[:20]!r} is not in this set.", "Choose one from the grid.")
