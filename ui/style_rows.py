"""How it looks, on the Generate tab: the pictures to borrow a look from, and where in the picture each of them acts."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadImage
from engine.settings import GenerateSettings, StyleTarget, StyleUse
from ui import form
from ui.brush import Brush, Ink, brush_view, drawing
from ui.cards import Plain, listing, sentence, url
from ui.page import AS_UPLOADED, IN_TURN, Page, into_view
from ui.picture_rows import PictureRows

WHITE, BLACK = "#ffffff", "#000000"
PEN_PX, SEEN_PERCENT = 80, 60
SEEN_PX = 160
OTHER_BASE = "Choose another base at the top to use one."
WHOLE_OR_OTHER_BASE = "Take all of it, everywhere, or choose another base at the top."
SQUARE = 1.02  # the longer side over the shorter one, up to which nothing worth a word is cut off


class StyleRows(PictureRows):
    """`masks` show where each reference acts, `squares` what of it is looked at, `notes` what is said of it as it
    stands. One brush serves all masks: `painted` is the row that it is open for."""

    rows, uses, many, most = "styles", StyleUse, "looks", 4

    def __init__(self, page: Page, inputs: dict[str, Any]) -> None:
        self.masks: list[gr.Image] = []
        self.paints: list[gr.Button] = []
        self.squares: list[gr.HTML] = []
        self.notes: list[gr.HTML] = []
        super().__init__(
            page, inputs, title="How it looks", note="pictures to borrow from", samples=page.studio.samples().looks
        )

    def _head(self, row: int) -> None:
        self._ask(row, "target", info=None, container=False, min_width=60, elem_id=f"look-target-{row}")

    def _body(self, row: int) -> None:
        self.squares.append(Plain(elem_id=f"look-square-{row}"))
        self._ask(row, "weight", info=None, elem_id=f"look-weight-{row}")
        self.notes.append(Plain(elem_id=f"look-notes-{row}"))
        self.inputs[f"styles.{row}.mask"] = gr.State("")
        with gr.Accordion("Where", open=False, elem_id=f"look-where-{row}"):
            Plain('<p class="aside">It acts where its mask is white; without one, everywhere.</p>')
            self.masks.append(
                gr.Image(sources=["upload"], show_label=False, height=110, buttons=[], elem_id=f"look-mask-{row}")
            )
            self.paints.append(gr.Button("Paint the mask", size="sm", elem_id=f"look-paint-{row}"))
        self._when(row)

    def lay_out_brush(self) -> None:
        """The place where masks are painted: wider than a leg."""
        self.painted = gr.State(0)
        with gr.Column(visible=False, elem_id="look-painter") as self.painter:
            self.brush = Brush(elem_id="look-brush")
            self.painter_notice = Plain(elem_id="look-painter-notice")

    @property
    def outputs(self) -> list[Any]:
        return [*super().outputs, *self.masks, self.painted, self.painter, self.brush, self.painter_notice]

    def wire(self) -> None:
        super().wire()
        page, inputs = self.page, self.inputs
        size = {side: inputs[side] for side in ("width", "height")}
        for row, mask in enumerate(self.masks):
            on_row = partial(page.on, outputs=self.outputs, notice=self.notices[row])
            held = self.of(row, "mask")
            on_row(mask.upload, partial(self.take_mask, row), inputs={"file": mask, **held}, **AS_UPLOADED)
            on_row(mask.clear, lambda row=row: self.of_row(row, mask=""))
            below = {"layout": inputs["controls.0.image"]}
            opened = on_row(self.paints[row].click, partial(self.open_brush, row), inputs={**held, **size, **below})
            opened.then(js=into_view("look-painter"))
            use = self.of(row, "image", "target", "weight", "mask")
            page.on(
                [self.appears(row), page.base.change, *(part.change for part in (*use.values(), *size.values()))],
                partial(self.describe, row),
                inputs={"base": page.base, **size, **use},
                outputs=[use["target"], self.squares[row]],
                notice=self.notes[row],
                **IN_TURN,
            )
        on_brush = partial(page.on, outputs=self.outputs, notice=self.painter_notice)
        on_brush(self.brush.release, self.take_painted, inputs={"row": self.painted})
        on_brush(self.brush.submit, self.close_brush)

    # Handlers

    def take_mask(self, row: int, *, file: dict[str, Any], mask: str) -> dict[Any, Any]:
        try:
            return self.of_row(row, mask=self.studio.keep_image(Path(file["path"])))
        except BadImage as error:
            return {self.notices[row]: sentence(str(error), "bad"), self.masks[row]: self.picture(mask)}

    def open_brush(self, row: int, *, mask: str, width: int, height: int, layout: str) -> dict[Any, Any]:
        """Paint over the first layout, if there is one."""
        sheet = self.studio.style_mask_sheet(mask, width, height)
        photo = url(self.studio.image_file(layout)) if layout else ""
        view = brush_view(
            url(self.studio.image_file(sheet)),
            [Ink("Acts here", WHITE)],
            paper=BLACK,
            width=PEN_PX,
            photo_url=photo,
            seen=SEEN_PERCENT if photo else 0,
        )
        return {self.painted: row, self.painter: gr.Column(visible=True), self.brush: view}

    def take_painted(self, event: gr.EventData, *, row: int) -> dict[Any, Any]:
        return {**self.show_mask(row, self.studio.keep_style_mask(drawing(event.png))), **self.close_brush()}

    def close_brush(self) -> dict[Any, Any]:
        return {self.painter: gr.Column(visible=False), self.brush: ""}

    def show_mask(self, row: int, mask: str) -> dict[Any, Any]:
        return {**self.of_row(row, mask=mask), self.masks[row]: self.picture(mask)}

    def remove(self, row: int, *, shown: list[int]) -> dict[Any, Any]:
        return {**super().remove(row, shown=shown), **self.show_mask(row, ""), **self.close_brush()}

    def fill(self, settings: GenerateSettings) -> dict[Any, Any]:
        masks = [use.mask for use in settings.styles] + [""] * (self.most - len(settings.styles))
        shown = [self.show_mask(row, mask) for row, mask in enumerate(masks)]
        return {**super().fill(settings), **{part: update for row in shown for part, update in row.items()}}

    def describe(
        self, row: int, *, base: str, width: int, height: int, image: str, target: StyleTarget, weight: float, mask: str
    ) -> dict[Any, Any]:
        """Say below the row what stands in its way, beside each part when the base cannot take it, and show what of the
        reference is looked at."""
        choices = [
            (f"{title} (not with this base)" if self._unfit(name, base) else title, name)
            for title, name in form.FORMS[StyleUse]["target"].choices
        ]
        said: list[str] = []
        if problem := self.studio.why_not(base).style(target, bool(mask)):
            takes_none = problem == self.studio.why_not(base).style("all", False)
            said.append(f"{problem} {OTHER_BASE if takes_none else WHOLE_OR_OTHER_BASE}")
        if image and weight == 0:
            said.append("At weight 0 this look does nothing.")
        if mask and width and height:  # a number box may be empty for a moment
            said += self.studio.style_mask_remarks(mask, width, height)
        return {
            **self.of_row(row, target=gr.Dropdown(choices)),
            self.squares[row]: self._square(image) if image else "",
            self.notes[row]: listing(("warn", text) for text in said),
        }

    def _unfit(self, target: Any, base: str) -> bool:
        return bool(self.studio.why_not(base).style(target, False))

    def _square(self, image: str) -> str:
        width, height = self.studio.image_size(image)
        if max(width, height) <= SQUARE * min(width, height):
            return ""
        seen = url(self.studio.thumbnail(image, SEEN_PX))
        return (
            f'<div class="seen-square"><span class="frame"><img src="{seen}" alt="the square in the middle"></span>'
            "<small>Only the square in the middle is looked at.</small></div>"
        )
