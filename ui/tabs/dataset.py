"""The Photos tab: photos in, the squares they will be trained as, what to mend, and the crop of each."""

import time
from collections import defaultdict
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.dataset import Advice
from engine.errors import BadDataset, NotFound
from engine.settings import CropBox
from engine.workspace import Dataset, Photo
from ui.cards import Card, Choice, Plain, Window, grid, headline, label, listing, sentence, url
from ui.page import Page, into_view
from ui.watch import in_words

PHOTO_FILES = ["image", ".heic", ".heif", ".avif", ".zip", ".txt"]
SIDE_PX = 512
BADGE_LENGTH = 16
ADVICE_THUMBNAILS = 5
PROGRESS = gr.Progress()  # Gradio fills it in where it is a default

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
                    file_types=PHOTO_FILES,
                    height=150,
                    elem_id="photo-drop",
                )
                self.notice = Plain(elem_id="photos-notice")
                label("Or start from a sample")
                self.samples = Choice(grid(self._sample_cards(), "tiles"), elem_id="sample-subjects")
                label("Your photo sets")
                with gr.Row(equal_height=True):
                    self.chooser = gr.Dropdown([], label="In hand", scale=3, min_width=140, elem_id="photo-set")
                    self.set_name = gr.Textbox(label="Name", scale=3, min_width=140, elem_id="photo-set-name")
                with gr.Row():
                    self.fresh = gr.Button("New set", size="sm")
                    self.forget = gr.Button("Delete this set", size="sm", variant="stop")
            with gr.Column(scale=7):
                self.advice = Plain(elem_id="advice")
                with gr.Column(visible=False, elem_classes=["sheet"], elem_id="crop-editor") as self.editor, gr.Row():
                    self.crop_view = Plain(min_width=200, scale=1)
                    with gr.Column(scale=1, min_width=240):
                        self.about = Plain()
                        self.size = gr.Slider(
                            10, 100, step=1, buttons=[], label="Size of the square, %", elem_id="crop-size"
                        )
                        self.across = gr.Slider(
                            0, 100, step=1, buttons=[], label="Left to right, %", elem_id="crop-across"
                        )
                        self.down = gr.Slider(0, 100, step=1, buttons=[], label="Top to bottom, %", elem_id="crop-down")
                        with gr.Row():
                            self.remove = gr.Button("Remove this photo", size="sm", variant="stop")
                            self.close = gr.Button("Done", size="sm")
                self.grid = Choice(photo_grid([]), elem_id="photo-grid")
                self.next = gr.Button(
                    "Caption the photos",
                    variant="primary",
                    interactive=False,
                    elem_id="to-captions",
                    elem_classes=["next"],
                )
        self.shown = [page.dataset, self.chooser, self.set_name, self.grid, self.editor, self.photo, self.next]
        self._wire()

    def _sample_cards(self) -> list[Card]:
        return [
            Card(id=subject.name, title=subject.title, note=f"{len(subject.photos)} photos", image=subject.photos[0])
            for subject in self.studio.samples().subjects
        ]

    def _wire(self) -> None:
        page, here = self.page, {"dataset_id": self.page.dataset}
        on, then = partial(page.on, notice=self.notice), partial(page.then, notice=self.notice)
        added = on(
            self.drop.upload,
            self.add,
            inputs={"files": self.drop, **here},
            outputs=self.shown,
            show_progress="full",
            show_progress_on=self.drop,
        )
        added.then(lambda: None, outputs=self.drop, api_visibility="private", show_progress="hidden")
        for event in (
            added,
            on(
                self.samples.select,
                self.add_sample,
                outputs=self.shown,
                show_progress="full",
                show_progress_on=self.grid,
            ),
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
            then(event, self.check, inputs=here, outputs=[self.advice, self.found, self.grid])
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
            inputs={
                "photo_id": self.photo,
                "found": self.found,
                "size": self.size,
                "across": self.across,
                "down": self.down,
                **here,
            },
            outputs=[self.crop_view, self.grid],
            queue=False,
            trigger_mode="always_last",
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
        captions = [Path(file) for file in files if file.endswith(".txt")]
        photos = [Path(file) for file in files if not file.endswith(".txt")]
        reasons: list[str] = []
        began_s = time.monotonic()
        for done, photo in enumerate(photos):
            left_s = (time.monotonic() - began_s) / max(1, done) * (len(photos) - done)
            progress((done, len(photos)), desc=f"Reading photos, {in_words(left_s)} left" if done else "Reading photos")
            try:
                reasons += [refusal.reason for refusal in self.studio.add_photos(dataset_id, [photo, *captions])[1]]
            except BadDataset as error:  # too many: those before it stay
                reasons.append(str(error))
                break
        return {self.notice: listing(("bad", reason) for reason in reasons), **self.show(dataset_id)}

    def add_sample(self, event: gr.EventData) -> dict[Any, Any]:
        return self.show(self.studio.add_sample(event.id).id)

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

    def check(self, *, dataset_id: str) -> dict[Any, Any]:
        if not dataset_id:
            return {self.advice: "", self.found: []}
        dataset = self.studio.dataset(dataset_id)
        found = self.studio.check(dataset_id)
        return {self.advice: self._advice(dataset, found), self.found: found, self.grid: self._cards(dataset, found)}

    def open_editor(self, event: gr.EventData, *, found: list[Advice], dataset_id: str) -> dict[Any, Any]:
        dataset = self.studio.dataset(dataset_id)
        photo = _photo(dataset, event.id)
        size, across, down = sliders(photo)
        return {
            **self.show(dataset_id, photo.id, found),
            self.crop_view: self._crop_view(photo),
            self.about: f"<h3>{escape(photo.file)}</h3>"
            + listing((a.level, a.text) for a in found if photo.id in a.photos),
            self.size: size,
            self.across: across,
            self.down: down,
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
            self.chooser: self._chooser(dataset_id),
            self.set_name: dataset.name if dataset else "",
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

    def _crop_view(self, photo: Photo) -> str:
        """The whole photo with everything but the square dimmed."""
        crop = photo.crop or centre_square(photo)
        left, top = crop.left_px / photo.width_px, crop.top_px / photo.height_px
        width, height = crop.side_px / photo.width_px, crop.side_px / photo.height_px
        style = "".join(
            f"{name}:{100 * share:.2f}%;"
            for name, share in (("left", left), ("top", top), ("width", width), ("height", height))
        )
        image = url(self.studio.thumbnail(photo.image, SIDE_PX))
        return f'<div class="crop"><img src="{image}" alt="the whole photo"><i style="{style}"></i></div>'


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


def centre_square(photo: Photo) -> CropBox:
    side_px = min(photo.width_px, photo.height_px)
    return CropBox(left_px=(photo.width_px - side_px) // 2, top_px=(photo.height_px - side_px) // 2, side_px=side_px)


def window(photo: Photo) -> Window:
    """The crop of a photo, as the part that its card shows."""
    crop = photo.crop or centre_square(photo)
    return Window(left=crop.left_px / crop.side_px, top=crop.top_px / crop.side_px, width=photo.width_px / crop.side_px)


def sliders(photo: Photo) -> tuple[float, float, float]:
    """A crop as percentages: its side of the shorter side of the photo, and where it lies in the room that is left."""
    crop = photo.crop or centre_square(photo)
    room_x, room_y = photo.width_px - crop.side_px, photo.height_px - crop.side_px
    size = 100 * crop.side_px / min(photo.width_px, photo.height_px)
    return size, 100 * crop.left_px / max(1, room_x), 100 * crop.top_px / max(1, room_y)


def crop_box(photo: Photo, size: float, across: float, down: float) -> CropBox:
    """What `sliders` undoes, to the pixel."""
    side_px = max(16, round(min(photo.width_px, photo.height_px) * size / 100))
    return CropBox(
        left_px=round((photo.width_px - side_px) * across / 100),
        top_px=round((photo.height_px - side_px) * down / 100),
        side_px=side_px,
    )
