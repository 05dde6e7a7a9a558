"""Rows of one leg that each start from a picture: filled, shown one after another, taken away.

What a row asks for besides, and what its picture is used for, is left to the legs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from engine.errors import BadImage, BadSettings
from engine.samples import SamplePicture
from engine.settings import GenerateSettings, Settings
from ui import form
from ui.cards import Card, Choice, Plain, grid, label, sentence, served
from ui.page import AS_UPLOADED, Page


class PictureRows:
    """`inputs` gets the component of every setting by its dotted name, such as `controls.0.strength`; the images among
    them are content hashes in `gr.State`, each beside the `gr.Image` that shows it. `boxes` are the rows, of which
    `shown` holds the numbers of those on the page, the one opened last at the end."""

    rows: ClassVar[str]
    """What the settings call them, and `uses` the dataclass of one; `many` is what people call them."""
    uses: ClassVar[type[Settings]]
    many: ClassVar[str]
    most: ClassVar[int]
    asked_on_upload: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self, page: Page, inputs: dict[str, Any], *, title: str, note: str, samples: Sequence[SamplePicture]
    ) -> None:
        self.page, self.studio, self.inputs = page, page.studio, inputs
        self.sample_files = {sample.name: sample.file for sample in samples}
        self.shown = gr.State([0])
        self.boxes, self.pictures, self.removes, self.notices = [], [], [], []
        one = self.many.removesuffix("s")
        label(title, note)
        for row in range(self.most):
            with gr.Column(visible=row == 0, elem_classes=["lora", "picture-row"], elem_id=f"{one}-{row}") as box:
                with gr.Row(elem_classes=["pick"]):
                    self._head(row)
                    self.removes.append(gr.Button("×", size="sm", min_width=0, elem_id=f"remove-{one}-{row}"))
                inputs[f"{self.rows}.{row}.image"] = gr.State("")
                self.pictures.append(
                    gr.Image(
                        sources=["upload"], show_label=False, height=130, buttons=[], elem_id=f"{one}-picture-{row}"
                    )
                )
                self.notices.append(Plain(elem_id=f"{one}-notice-{row}"))
                self._body(row)
            self.boxes.append(box)
        self.samples = Choice(grid(sample_cards(samples), "dots"), elem_id=f"sample-{self.many}")
        self.add = gr.Button(f"Add a {one}", size="sm", elem_id=f"add-{one}")
        self.on = partial(page.on, notice=Plain(elem_id=f"{self.many}-notice"))

    def _head(self, row: int) -> None:
        """Lay out what stands above the picture of a row."""

    def _body(self, row: int) -> None:
        """Lay out what stands below it."""

    def _ask(self, row: int, name: str, **kwargs: Any) -> Any:
        component = self.inputs[f"{self.rows}.{row}.{name}"] = form.build(self.uses, name, **kwargs)
        return component

    def _when(self, row: int, *more: str) -> None:
        """When it acts, as shares of the steps, and what `more` is seldom asked: folded away."""
        with gr.Accordion("When and how" if more else "When", open=False):
            for name in ("start", "end"):
                self._ask(row, name, info=None)
            for name in more:
                self._ask(row, name)

    def of(self, row: int, *names: str) -> dict[str, Any]:
        """The components of a row, by the names of their settings."""
        return {name: self.inputs[f"{self.rows}.{row}.{name}"] for name in names}

    def of_all(self, *names: str) -> dict[str, Any]:
        """The components of every row, under names such as `kind_0`."""
        return {f"{name}_{row}": one for row in range(self.most) for name, one in self.of(row, *names).items()}

    def appears(self, row: int) -> Callable[..., Any]:
        """The event with which a row comes on the page."""
        return self.shown.change if row else self.page.app.load

    @property
    def outputs(self) -> list[Any]:
        """Everything that the rows' own handlers and `fill` may change."""
        own = [self.shown, *self.boxes, *self.pictures, *self.notices, self.add]
        return own + [
            component for row in range(self.most) for component in self.of(row, *form.FORMS[self.uses]).values()
        ]

    # Wiring

    def wire(self) -> None:
        shown = {"shown": self.shown}
        self.on(self.samples.select, self.take_sample, inputs=shown, outputs=self.outputs)
        self.on(self.add.click, self.show_another, inputs=shown, outputs=self.outputs)
        for row, picture in enumerate(self.pictures):
            self.on(self.removes[row].click, partial(self.remove, row), inputs=shown, outputs=self.outputs)
            on_row = partial(self.page.on, notice=self.notices[row])
            on_row(
                picture.upload,
                partial(self.take_upload, row),
                inputs={"file": picture, **self.of(row, *self.asked_on_upload)},
                outputs=self.outputs,
                **AS_UPLOADED,
            )
            on_row(picture.clear, partial(self.clear, row), outputs=self.outputs)

    # Handlers

    def take_upload(self, row: int, *, file: dict[str, Any], image: str, **asked: Any) -> dict[Any, Any]:
        try:
            taken = self.studio.keep_image(Path(file["path"]))
        except BadImage as error:
            return {self.notices[row]: sentence(str(error), "bad"), self.pictures[row]: self.picture(image)}
        return self.taken(row, taken, **asked)

    def taken(self, row: int, image: str, **asked: Any) -> dict[Any, Any]:
        """What follows from a picture that was just given."""
        return self.of_row(row, image=image)

    def take_sample(self, event: gr.EventData, *, shown: list[int]) -> dict[Any, Any]:
        """Put a sample on the row that was opened last: the one in hand."""
        return self.put(shown[-1], self.studio.keep_image(self.sample_files[event.id]))

    def put(self, row: int, image: str, **values: Any) -> dict[Any, Any]:
        """Show a kept picture on a row, and set its other `values`."""
        return {
            self.pictures[row]: self.picture(image),
            self.notices[row]: "",
            **self.of_row(row, image=image, **values),
        }

    def clear(self, row: int) -> dict[Any, Any]:
        return self.of_row(row, image="")

    def show_another(self, *, shown: list[int]) -> dict[Any, Any]:
        return self.show([*shown, self.another(shown)[0]])

    def another(self, shown: list[int]) -> list[int]:
        """The rows that are not shown. Raises: BadSettings when there is none."""
        hidden = [row for row in range(self.most) if row not in shown]
        if not hidden:
            raise BadSettings(f"There are {self.most} {self.many} already.", "Take one away first.")
        return hidden

    def remove(self, row: int, *, shown: list[int]) -> dict[Any, Any]:
        """Free the row and hide it, unless it is the only one; its settings are those of a new one again."""
        new = form.spread(GenerateSettings(prompt="-"), [f"{self.rows}.{row}.{name}" for name in form.FORMS[self.uses]])
        return {
            **self.show([other for other in shown if other != row] or [row]),
            **{self.inputs[name]: value for name, value in new.items()},
            **self.put(row, ""),
        }

    def show(self, shown: list[int]) -> dict[Any, Any]:
        shown = list(dict.fromkeys(shown))
        return {
            self.shown: shown,
            self.add: gr.Button(interactive=len(shown) < self.most),
            **{box: gr.Column(visible=row in shown) for row, box in enumerate(self.boxes)},
        }

    def fill(self, settings: GenerateSettings) -> dict[Any, Any]:
        """The pictures of `settings` shown, each on its row. The components in `inputs` are set by whoever asks."""
        uses = getattr(settings, self.rows)
        images = [use.image for use in uses] + [""] * (self.most - len(uses))
        return {
            **{picture: self.picture(image) for picture, image in zip(self.pictures, images, strict=True)},
            **dict.fromkeys(self.notices, ""),
            **self.show(list(range(max(1, len(uses))))),
        }

    def of_row(self, row: int, **values: Any) -> dict[Any, Any]:
        """Updates that set some settings of a row."""
        return {self.inputs[f"{self.rows}.{row}.{name}"]: value for name, value in values.items()}

    def picture(self, image: str) -> str | None:
        return served(self.studio.image_file(image)) if image else None


def sample_cards(samples: Sequence[SamplePicture]) -> list[Card]:
    return [Card(id=sample.name, title=sample.title, image=sample.file, hint=sample.title) for sample in samples]
