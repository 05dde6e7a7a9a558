"""Where things go, on the Generate tab: the layouts that a picture follows, together."""

from functools import partial
from typing import Any

import gradio as gr

from engine.settings import ControlMode, ControlUse, GenerateSettings
from ui.cards import Plain, listing, sentence
from ui.page import IN_TURN, Page, handed
from ui.picture_rows import PictureRows


class LayoutRows(PictureRows):
    """`notes` are what is said below each row of the layout as it stands."""

    rows, uses, many, most = "controls", ControlUse, "layouts", 4
    asked_on_upload = ("image", "kind")

    def __init__(self, page: Page, inputs: dict[str, Any]) -> None:
        self.kinds = {kind.name: kind for kind in page.studio.control_kinds()}
        self.notes: list[gr.HTML] = []
        self.edits: list[gr.Button] = []
        super().__init__(
            page,
            inputs,
            title="Where",
            note="layouts to follow, together",
            samples=page.studio.samples().compositions,
        )

    @property
    def titles(self) -> dict[str, str]:
        """What people call the kinds."""
        return {name: kind.title for name, kind in self.kinds.items()}

    def _head(self, row: int) -> None:
        kinds = [(kind.title, kind.name) for kind in self.kinds.values()]
        first = next(iter(self.kinds))
        self._ask(row, "kind", choices=kinds, value=first, container=False, min_width=60, elem_id=f"control-kind-{row}")

    def _body(self, row: int) -> None:
        self._ask(row, "strength", info=None, elem_id=f"control-strength-{row}")
        self.notes.append(Plain(elem_id=f"control-notes-{row}"))
        self.edits.append(gr.Button("Edit the map", size="sm", visible=False, elem_id=f"edit-layout-{row}"))
        self._ask(row, "detected", info="Used as it is, not taken from a photo")
        self._when(row, "mode")

    def wire(self) -> None:
        super().wire()
        page = self.page
        self.on(
            page.new_map.change,
            self.take_map,
            inputs={"handed": page.new_map, "shown": self.shown, **self.of_all("kind", "image")},
            outputs=self.outputs,
        )
        size = {side: self.inputs[side] for side in ("width", "height")}
        for row, notes in enumerate(self.notes):
            use = self.of(row, "kind", "image", "detected", "strength", "mode")
            page.on(
                [self.appears(row), page.base.change, *(component.change for component in use.values())],
                partial(self.describe, row),
                inputs={"base": page.base, **size, **use},
                outputs=[use["kind"], self.edits[row]],
                notice=notes,
                **IN_TURN,
            )

            page.on(
                self.edits[row].click,
                partial(self.edit, row),
                inputs=self.of(row, "kind", "image", "detected"),
                outputs=[page.edit_map, page.tabs],
                notice=self.notices[row],
            )

    def edit(self, row: int, **use: Any) -> dict[Any, Any]:
        """Hand the layout over to be edited; the Layout tab hands it back to this row."""
        return {self.page.edit_map: handed(row=row, **use), **self.page.go("layout")}

    def take_map(self, *, handed: dict[str, Any], shown: list[int], **layouts: str) -> dict[Any, Any]:
        """Put a map on the row that it was edited for, that of its kind, a free one, or one more."""
        kind = handed["kind"]
        filled = [row for row in shown if layouts[f"image_{row}"]]
        same = [row for row in filled if layouts[f"kind_{row}"] == kind]
        edited = [row for row in shown if row == handed.get("row")]
        fitting = [*edited, *same, *(row for row in shown if row not in filled)]
        row = (fitting or self.another(shown))[0]
        return {**self.show([*shown, row]), **self.put(row, handed["image"], kind=kind, detected=True)}

    def put(self, row: int, image: str, **values: Any) -> dict[Any, Any]:
        """A picture that is no map, unless it is `detected`."""
        return super().put(row, image, **{"detected": False} | values)

    def taken(self, row: int, image: str, *, kind: str) -> dict[Any, Any]:
        """A photo, or a ready-made map, which is known for what it is."""
        found = self.studio.map_kind(image, kind)
        if not found:
            return self.of_row(row, image=image, detected=False)
        said = f"This is a ready-made map: {self.kinds[found].title.lower()}. It is used as it is."
        return {**self.of_row(row, image=image, detected=True, kind=found), self.notices[row]: sentence(said)}

    def remove(self, row: int, *, shown: list[int]) -> dict[Any, Any]:
        return {**super().remove(row, shown=shown), **self.of_row(row, kind=next(iter(self.kinds)))}

    def fill(self, settings: GenerateSettings) -> dict[Any, Any]:
        """Rows without a layout are of the first kind."""
        free = [self.of_row(row, kind=next(iter(self.kinds))) for row in range(len(settings.controls), self.most)]
        return {**super().fill(settings), **{part: kind for row in free for part, kind in row.items()}}

    def describe(
        self,
        row: int,
        *,
        base: str,
        width: int,
        height: int,
        kind: str,
        image: str,
        detected: bool,
        strength: float,
        mode: ControlMode,
    ) -> dict[Any, Any]:
        """Say below the row what stands in its way, and beside each kind when the base cannot follow it."""
        why_not = self.studio.why_not(base)
        reasons = {k: why_not.control(k.name) for k in self.kinds.values()}
        choices = [(f"{k.title} (not with this base)" if reason else k.title, k.name) for k, reason in reasons.items()]
        said: list[str] = []
        if unfit := reasons[self.kinds[kind]]:
            said.append(f"{unfit} Choose another kind, or another base at the top.")
        if unfit := why_not.control_mode(mode):
            said.append(f"{unfit} Choose another control mode under “When and how”, or another base.")
        if strength == 0:
            said.append("At strength 0 this layout does nothing.")
        if image and detected and width and height:  # a number box may be empty for a moment
            said += self.studio.map_remarks(image, kind, width, height)
        return {
            **self.of_row(row, kind=gr.Dropdown(choices)),
            self.edits[row]: gr.Button(visible=bool(image) and self.studio.is_editable(kind)),
            self.notes[row]: listing(("warn", text) for text in said),
        }
