"""Starting from a picture, on the Generate tab: the picture, how much of it may change, and the part that is repainted.

What the start is used for is left to the tab.
"""

from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadImage
from engine.settings import GenerateSettings, StartImage
from ui import form
from ui.brush import Brush, Ink, brush_view, drawing
from ui.cards import Plain, listing, sentence, served, url
from ui.page import AS_UPLOADED, IN_TURN, Page

PEN_PX, SEEN_PERCENT = 60, 60
VIEW_PX = 512


class StartPicture:
    """`inputs` gets the component of every setting by its dotted name, such as `start.strength`; picture and mask among
    them are content hashes in `gr.State`. Both are of one size."""

    def __init__(self, page: Page, inputs: dict[str, Any]) -> None:
        self.page, self.studio, self.inputs = page, page.studio, inputs
        for name in ("image", "mask"):
            inputs[f"start.{name}"] = gr.State("")
        with gr.Accordion("Start from a picture", open=False, elem_id="start") as self.box:
            with gr.Row():
                with gr.Column(min_width=200):
                    self.picture = gr.Image(
                        sources=["upload"], show_label=False, height=190, buttons=[], elem_id="start-picture"
                    )
                    self.view = Plain(elem_id="start-mask")
                with gr.Column(min_width=220):
                    self._ask("strength", elem_id="strength")
                    with gr.Row(elem_classes=["actions"]):
                        self.paint = gr.Button("Change only a part", size="sm", interactive=False, elem_id="paint")
                        self.unmask = gr.Button("Change all of it", size="sm", visible=False, elem_id="unmask")
                    with gr.Column(visible=False, elem_id="mask-tuning") as self.tuning:
                        self._ask("feather_px")
                        self._ask("only_masked", elem_id="only-masked")
                        self._ask("padding_px", visible=False)
            with gr.Column(visible=False, elem_id="mask-editor") as self.editor:
                self.brush = Brush(elem_id="mask-brush")
            self.notes = Plain(elem_id="start-notes")
            self.notice = Plain(elem_id="start-notice")

    def _ask(self, name: str, **kwargs: Any) -> None:
        self.inputs[f"start.{name}"] = form.build(StartImage, name, **kwargs)

    @property
    def outputs(self) -> list[Any]:
        """Everything that the handlers here and `fill` may change."""
        shown = [self.box, self.picture, self.view, self.paint, self.unmask, self.tuning, self.editor, self.brush]
        return [*shown, self.notice, *(self.inputs[f"start.{name}"] for name in form.FORMS[StartImage])]

    # Wiring

    def wire(self) -> None:
        def on(trigger: Any, handler: Any, **options: Any) -> None:
            self.page.on(trigger, handler, outputs=self.outputs, notice=self.notice, **options)

        inputs = self.inputs
        kept = {name: inputs[f"start.{name}"] for name in ("image", "mask")}
        on(self.picture.upload, self.take_upload, inputs={"file": self.picture, **kept}, **AS_UPLOADED)
        on(self.picture.clear, lambda: self.put(""))
        on(self.paint.click, self.open_brush, inputs=kept)
        on(self.brush.release, self.take_mask, inputs={"image": kept["image"]})
        on(self.brush.submit, self.close_brush)
        on(self.unmask.click, lambda *, image: self.mark(image, ""), inputs={"image": kept["image"]})
        crop, size = inputs["start.only_masked"], {name: inputs[name] for name in ("width", "height")}
        self.page.on(
            [self.page.app.load, *(part.change for part in (*kept.values(), *size.values(), crop, self.page.base))],
            self.describe,
            inputs={"base": self.page.base, "only_masked": crop, **size, **kept},
            outputs=[self.paint, inputs["start.padding_px"]],
            notice=self.notes,
            **IN_TURN,
        )

    # Handlers

    def take_upload(self, *, file: dict[str, Any], image: str, mask: str) -> dict[Any, Any]:
        try:
            return self.put(self.studio.keep_image(Path(file["path"])))
        except BadImage as error:
            said = {self.notice: sentence(str(error), "bad")}
            return {**self.put(image), **self.mark(image, mask), **said} if image else {**self.put(""), **said}

    def put(self, image: str) -> dict[Any, Any]:
        """Start from a kept picture, all of it; from none if `image` is empty."""
        return {
            self.inputs["start.image"]: image,
            self.picture: served(self.studio.image_file(image)) if image else None,
            self.box: gr.Accordion(open=True),
            **self.mark(image, ""),
        }

    def mark(self, image: str, mask: str) -> dict[Any, Any]:
        """Show what of the picture is repainted: all of it without a mask."""
        return {
            self.inputs["start.mask"]: mask,
            self.view: self._marked(image, mask) if mask else "",
            self.unmask: gr.Button(visible=bool(mask)),
            self.tuning: gr.Column(visible=bool(mask)),
            **self.close_brush(),
        }

    def _marked(self, image: str, mask: str) -> str:
        """The picture with its painted part lit up."""
        below, above = (url(self.studio.thumbnail(part, VIEW_PX)) for part in (image, mask))
        return (
            f'<div class="marked"><img src="{below}" alt="the picture"><img class="mask" src="{above}" alt=""></div>'
            '<p class="aside">Only what is lit up is drawn anew.</p>'
        )

    def open_brush(self, *, image: str, mask: str) -> dict[Any, Any]:
        start, photo = self.studio.image_file(mask or self.studio.empty_mask(image)), self.studio.image_file(image)
        white = Ink("Draw anew", "#ffffff")
        view = brush_view(url(start), [white], paper="#000000", width=PEN_PX, photo_url=url(photo), seen=SEEN_PERCENT)
        return {self.editor: gr.Column(visible=True), self.brush: view}

    def take_mask(self, event: gr.EventData, *, image: str) -> dict[Any, Any]:
        return self.mark(image, self.studio.keep_mask(image, drawing(event.png)))

    def close_brush(self) -> dict[Any, Any]:
        return {self.editor: gr.Column(visible=False), self.brush: ""}

    def describe(
        self, *, base: str, width: int, height: int, image: str, mask: str, only_masked: bool
    ) -> dict[Any, Any]:
        """Say what stands in the way of the start, and what is done to it; grey what the base cannot do."""
        no_start, no_mask = map(self.studio.why_not(base).task, ("image_to_image", "inpainting"))
        said: list[str] = []
        if image and (reason := no_mask if mask else no_start):
            said.append(f"{reason} Take the picture away, or choose another base at the top.")
        elif image and no_mask:
            said.append(no_mask)
        if image and width and height and not (mask and only_masked):  # a number box may be empty for a moment
            said += self.studio.start_remarks(image, width, height)
        return {
            self.paint: gr.Button(
                "Paint again" if mask else "Change only a part", interactive=bool(image) and not no_mask
            ),
            self.inputs["start.padding_px"]: gr.Slider(visible=only_masked),
            self.notes: listing(("warn", text) for text in said),
        }

    def fill(self, settings: GenerateSettings) -> dict[Any, Any]:
        """The start of `settings` shown. The components in `inputs` are set by whoever asks."""
        start = settings.start
        if start is None:
            return {**self.put(""), self.box: gr.Accordion(open=False)}
        return {**self.put(start.image), **self.mark(start.image, start.mask)}
