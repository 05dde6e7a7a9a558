"""The Layout tab: a picture on the left, the map that holds its layout on the right."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadImage
from engine.samples import SamplePicture
from engine.studio import Job
from ui.cards import Card, Choice, Plain, grid, headline, label, sentence, served
from ui.page import AS_UPLOADED, Page, handed
from ui.watch import Watch


class ControlTab:
    """`picture` is the content hash of the picture, `map` what "Use it" will hand over. A map is taken at once."""

    name, title = "layout", "Layout"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        self.kinds = {kind.name: kind for kind in self.studio.control_kinds()}
        first = next(iter(self.kinds))
        self.picture, self.kind, self.map = gr.State(""), gr.State(first), gr.State({})
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=5, elem_classes=["sheet"]):
                headline("Decide where things go", "Give a picture whose layout you like; only its layout is used.")
                self.upload = gr.Image(label="Picture", sources=["upload"], height=260, elem_id="layout-picture")
                self.notice = Plain(elem_id="layout-notice")
                label("Or start from a sample")
                compositions = sample_cards(self.studio.samples().compositions)
                self.samples = Choice(grid(compositions, "squares small"), elem_id="compositions")
                label("What to keep of it")
                self.kind_cards = Choice(elem_id="control-kinds")
                self.options = {
                    kind.name: {
                        option.name: gr.Slider(
                            option.low,
                            option.high,
                            value=option.default,
                            step=option.step,
                            label=option.label,
                            buttons=[],
                            visible=kind.name == first,
                        )
                        for option in kind.options
                    }
                    for kind in self.kinds.values()
                }
            with gr.Column(scale=7):
                self.watch = Watch(page, "extract", every_s=0.4)
                self.result = gr.Image(
                    label="Map", interactive=False, height=460, buttons=["fullscreen"], elem_id="map", format="png"
                )
                self.use = gr.Button("Use this layout", variant="primary", interactive=False, elem_id="use-map")
        self.sliders = {f"{kind}.{name}": s for kind, sliders in self.options.items() for name, s in sliders.items()}
        self._wire()

    def _wire(self) -> None:
        page, on = self.page, partial(self.page.on, notice=self.notice)
        asked = {"picture": self.picture, "kind": self.kind, **self.sliders}
        started = self.watch.outputs
        on(
            self.upload.upload,
            self.take_upload,
            inputs={"file": self.upload, **asked},
            outputs=[self.picture, self.upload, *started],
            **AS_UPLOADED,
        )
        on(
            self.samples.select,
            self.take_sample,
            inputs=asked,
            outputs=[self.picture, self.upload, *started],
        )
        with_base, kinds = {"base": page.base, **asked}, [self.kind, self.kind_cards, *self.sliders.values(), *started]
        on(self.kind_cards.select, self.choose_kind, inputs=with_base, outputs=kinds)
        on([page.app.load, page.base.change], self.suit_base, inputs=with_base, outputs=kinds)
        on([s.release for s in self.sliders.values()], self.take, inputs=asked, outputs=started)
        on(self.upload.clear, self.clear, outputs=[self.picture, self.map, self.result, self.use])
        on(self.use.click, self.use_it, inputs={"found": self.map}, outputs=[page.new_map, page.tabs])
        self.watch.follow(self.follow, [self.map, self.result, self.use])

    # Handlers

    def take(self, *, picture: str, kind: str, **sliders: float) -> dict[Any, Any]:
        """Start taking the map, when there is a picture to take it from."""
        if not picture:
            return {}
        options = {name: sliders[f"{kind}.{name}"] for name in self.options[kind]}
        return self.watch.start(self.studio.extract(picture, kind, options))

    def take_upload(self, *, file: dict[str, Any], picture: str, **asked: Any) -> dict[Any, Any]:
        try:
            picture = self.studio.keep_image(Path(file["path"]))
        except BadImage as error:
            return {self.notice: sentence(str(error), "bad"), self.upload: self._shown(picture)}
        return {self.picture: picture, **self.take(picture=picture, **asked)}

    def _shown(self, picture: str) -> str | None:
        return served(self.studio.image_file(picture)) if picture else None

    def take_sample(self, event: gr.EventData, *, picture: str, **asked: Any) -> dict[Any, Any]:
        file = next(sample.file for sample in self.studio.samples().compositions if sample.name == event.id)
        return {self.upload: served(file), **self.take_upload(file={"path": file}, picture=picture, **asked)}

    def choose_kind(self, event: gr.EventData, *, kind: str, base: str, **asked: Any) -> dict[Any, Any]:
        return self._choose(self.kinds[event.id].name, base, **asked)

    def suit_base(self, *, kind: str, base: str, **asked: Any) -> dict[Any, Any]:
        """Grey what the base cannot follow; when that is the chosen kind, choose the first that it can."""
        possible = [name for name in self.kinds if not self.studio.why_not_control(name, base)]
        if kind in possible or not possible:
            return {self.kind_cards: self._kind_cards(kind, base)}
        return self._choose(possible[0], base, **asked)

    def _choose(self, kind: str, base: str, **asked: Any) -> dict[Any, Any]:
        shown = {
            slider: gr.Slider(visible=name == kind)
            for name, sliders in self.options.items()
            for slider in sliders.values()
        }
        return {
            self.kind: kind,
            self.kind_cards: self._kind_cards(kind, base),
            **shown,
            **self.take(kind=kind, **asked),
        }

    def clear(self) -> dict[Any, Any]:
        return {self.picture: "", self.map: {}, self.result: None, self.use: gr.Button(interactive=False)}

    def use_it(self, *, found: dict[str, str]) -> dict[Any, Any]:
        return {self.page.new_map: handed(**found), **self.page.go("generate")}

    def follow(self, job: Job) -> dict[Any, Any]:
        if not job.finished:
            return {self.use: gr.Button(interactive=False)}
        if job.state != "done":
            return {self.map: {}, self.result: None, self.use: gr.Button(interactive=False)}
        image = job.result()["map"]
        return {
            self.map: {"kind": job.request["kind"], "image": image},
            self.result: served(self.studio.image_file(image)),
            self.use: gr.Button(interactive=True),
        }

    def _kind_cards(self, chosen: str, base: str) -> str:
        cards = [
            Card(
                id=kind.name,
                title=kind.title,
                note=kind.good_for,
                chosen=kind.name == chosen,
                off=self.studio.why_not_control(kind.name, base),
            )
            for kind in self.kinds.values()
        ]
        return grid(cards, "kinds")


def sample_cards(samples: Sequence[SamplePicture]) -> list[Card]:
    return [Card(id=sample.name, title=sample.title, image=sample.file, hint=sample.title) for sample in samples]
