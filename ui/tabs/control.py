"""The Layout tab: a picture on the left, the map that holds its layout on the right."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadImage
from engine.samples import SamplePicture
from engine.studio import ControlKind, Job
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
                self.detector = gr.Dropdown(**detector_menu(self.kinds[first]), label="Detector", elem_id="detector")
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
        asked = {"picture": self.picture, "kind": self.kind, "detector": self.detector, **self.sliders}
        started, map_ = self.watch.outputs, [self.map, self.result, self.use]
        on(
            self.upload.upload,
            self.take_upload,
            inputs={"file": self.upload, **asked},
            outputs=[self.picture, self.upload, *map_, *started],
            **AS_UPLOADED,
        )
        on(
            self.samples.select,
            self.take_sample,
            inputs=asked,
            outputs=[self.picture, self.upload, *map_, *started],
        )
        with_base = {"base": page.base, **asked}
        kinds = [self.kind, self.kind_cards, self.detector, *self.sliders.values(), *started]
        on(self.kind_cards.select, self.choose_kind, inputs=with_base, outputs=kinds)
        on([page.app.load, page.base.change], self.suit_base, inputs=with_base, outputs=kinds)
        changed = [self.detector.input, *(slider.release for slider in self.sliders.values())]
        on(changed, self.take, inputs=asked, outputs=started)
        on(self.upload.clear, self.clear, outputs=[self.picture, *map_])
        on(self.use.click, self.use_it, inputs={"found": self.map}, outputs=[page.new_map, page.tabs])
        self.watch.follow(self.follow, map_)

    # Handlers

    def take(self, *, picture: str, kind: str, detector: str, **sliders: float) -> dict[Any, Any]:
        """Start taking the map, when there is a picture to take it from."""
        if not picture:
            return {}
        options = {name: sliders[f"{kind}.{name}"] for name in self.options[kind]}
        return self.watch.start(self.studio.extract(picture, kind, options, detector))

    def take_upload(self, *, file: dict[str, Any], picture: str, kind: str, **asked: Any) -> dict[Any, Any]:
        """Take the map of a photo at once; what is a ready-made map serves as it is."""
        try:
            picture = self.studio.keep_image(Path(file["path"]))
        except BadImage as error:
            return {self.notice: sentence(str(error), "bad"), self.upload: self._shown(picture)}
        if found := self.studio.map_kind(picture, kind):
            title = self.kinds[found].title.lower()
            said = (
                f"This is a ready-made map: {title}. Use it as it is, or choose below what to keep of it all the same."
            )
            return {self.notice: sentence(said), self.picture: picture, **self._found(found, picture)}
        return {self.picture: picture, **self.take(picture=picture, kind=kind, **asked)}

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

    def _choose(self, kind: str, base: str, *, detector: str, **asked: Any) -> dict[Any, Any]:
        shown = {
            slider: gr.Slider(visible=name == kind)
            for name, sliders in self.options.items()
            for slider in sliders.values()
        }
        menu = detector_menu(self.kinds[kind])
        return {
            self.kind: kind,
            self.kind_cards: self._kind_cards(kind, base),
            self.detector: gr.Dropdown(**menu),
            **shown,
            **self.take(kind=kind, detector=menu["value"], **asked),
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
        return self._found(job.request["kind"], job.result()["map"])

    def _found(self, kind: str, image: str) -> dict[Any, Any]:
        return {
            self.map: {"kind": kind, "image": image},
            self.result: self._shown(image),
            self.use: gr.Button(interactive=True),
        }

    def _kind_cards(self, chosen: str, base: str) -> str:
        cards = [
            Card(
                id=kind.name,
                title=kind.title,
                note=note(kind),
                chosen=kind.name == chosen,
                off=self.studio.why_not_control(kind.name, base),
            )
            for kind in self.kinds.values()
        ]
        return grid(cards, "kinds")


def note(kind: ControlKind) -> str:
    """What a kind is good for, and whether its first use needs the internet."""
    offline = any(detector.offline for detector in kind.detectors)
    return kind.good_for if offline else f"{kind.good_for} The first time, its detector is fetched from the Hub."


def detector_menu(kind: ControlKind) -> dict[str, Any]:
    """The detectors of a kind with their quality, the usual one chosen; hidden where there is nothing to choose."""
    detectors = kind.detectors
    titles = [f"{d.title} ({d.quality}{'' if d.offline else ', from the Hub'})" for d in detectors]
    names = [detector.name for detector in detectors]
    return {"choices": list(zip(titles, names, strict=True)), "value": names[0], "visible": len(names) > 1}


def sample_cards(samples: Sequence[SamplePicture]) -> list[Card]:
    return [Card(id=sample.name, title=sample.title, image=sample.file, hint=sample.title) for sample in samples]
