"""The Layout tab: a picture on the left, the map that holds its layout on the right."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadImage
from engine.studio import ControlKind, Job
from ui.cards import Card, Choice, Plain, grid, headline, label, sentence, served
from ui.map_editor import MapEditor
from ui.page import AS_UPLOADED, Page, handed, into_view
from ui.picture_rows import sample_cards
from ui.watch import Watch

EDITOR_INTO_VIEW = into_view("map-editor")


class ControlTab:
    """`picture` is the content hash of the picture, `map` what "Use it" will hand over. A map is taken at once.

    `goal` is the row of the Generate tab that a map is edited for, if any: it gets the map back, and until it is taken
    `wanted` says that the editor opens on it."""

    name, title = "layout", "Layout"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        self.kinds = {kind.name: kind for kind in self.studio.control_kinds()}
        first = next(iter(self.kinds))
        self.picture, self.kind, self.map = gr.State(""), gr.State(first), gr.State({})
        self.goal, self.wanted = gr.State(None), gr.State(False)
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
                self.editor = MapEditor(page)
                with gr.Row(elem_classes=["actions"]):
                    self.draw = gr.Button("Draw your own", visible=False, elem_id="draw-map")
                    self.edit = gr.Button("Edit this map", visible=False, elem_id="edit-map")
                    self.use = gr.Button("Use this layout", variant="primary", interactive=False, elem_id="use-map")
        self.sliders = {f"{kind}.{name}": s for kind, sliders in self.options.items() for name, s in sliders.items()}
        self._wire()

    def _wire(self) -> None:
        page, on = self.page, partial(self.page.on, notice=self.notice)
        asked = {"picture": self.picture, "kind": self.kind, "detector": self.detector, **self.sliders}
        started = self.watch.outputs
        map_ = [self.map, self.result, self.use, self.edit, self.draw, *self.editor.outputs]
        on(
            self.upload.upload,
            self.take_upload,
            inputs={"file": self.upload, **asked},
            outputs=[self.picture, self.upload, self.goal, *map_, *started],
            **AS_UPLOADED,
        )
        on(
            self.samples.select,
            self.take_sample,
            inputs=asked,
            outputs=[self.picture, self.upload, self.goal, *map_, *started],
        )
        with_base = {"base": page.base, **asked}
        kinds = [self.kind, self.kind_cards, self.detector, self.draw, *self.sliders.values(), *started]
        on(self.kind_cards.select, self.choose_kind, inputs=with_base, outputs=kinds)
        on([page.app.load, page.base.change], self.suit_base, inputs=with_base, outputs=kinds)
        changed = [self.detector.input, *(slider.release for slider in self.sliders.values())]
        on(changed, self.take, inputs=asked, outputs=started)
        on(self.upload.clear, self.clear, inputs={"kind": self.kind}, outputs=[self.picture, *map_])
        on(
            self.edit.click,
            self.open_editor,
            inputs={"found": self.map, "picture": self.picture, "moved": self.editor.moved},
            outputs=map_,
        ).then(js=EDITOR_INTO_VIEW)
        on(
            self.draw.click,
            self.draw_new,
            inputs={"kind": self.kind, "base": page.base, "picture": self.picture},
            outputs=[*map_, self.watch.box],
        ).then(js=EDITOR_INTO_VIEW)
        self.editor.wire(self._found, map_)
        on(self.editor.cancelled, self.leave_editor, inputs={"found": self.map, "kind": self.kind}, outputs=map_)
        on(
            page.edit_map.change,
            self.take_row,
            inputs={"handed": page.edit_map, "moved": self.editor.moved, **with_base},
            outputs=[self.picture, self.upload, self.goal, self.wanted, *kinds, *map_],
        ).then(js=EDITOR_INTO_VIEW)
        goal = {"found": self.map, "goal": self.goal}
        on(self.use.click, self.use_it, inputs=goal, outputs=[page.new_map, page.tabs, self.goal])
        asked_for = {"picture": self.picture, "wanted": self.wanted}
        self.watch.follow(self.follow, [*map_, self.wanted], inputs=asked_for)

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
        taken = {self.picture: picture, self.goal: None}
        if found := self.studio.map_kind(picture, kind):
            title = self.kinds[found].title.lower()
            said = (
                f"This is a ready-made map: {title}. Use it as it is, or choose below what to keep of it all the same."
            )
            return {self.notice: sentence(said), **taken, **self._found(found, picture), **self.watch.dismiss()}
        return {**taken, **self.take(picture=picture, kind=kind, **asked)}

    def _shown(self, picture: str) -> str | None:
        return served(self.studio.image_file(picture)) if picture else None

    def take_sample(self, event: gr.EventData, *, picture: str, **asked: Any) -> dict[Any, Any]:
        file = next(sample.file for sample in self.studio.samples().compositions if sample.name == event.id)
        return {self.upload: served(file), **self.take_upload(file={"path": file}, picture=picture, **asked)}

    def choose_kind(self, event: gr.EventData, *, kind: str, base: str, **asked: Any) -> dict[Any, Any]:
        return self._choose(self.kinds[event.id].name, base, **asked)

    def suit_base(self, *, kind: str, base: str, **asked: Any) -> dict[Any, Any]:
        """Grey what the base cannot follow; when that is the chosen kind, choose the first that it can."""
        possible = [name for name in self.kinds if not self.studio.why_not(base).control(name)]
        if kind in possible or not possible:
            drawn = gr.Button(visible=self.studio.is_editable(kind))
            return {self.kind_cards: self._kind_cards(kind, base), self.draw: drawn}
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
            self.draw: gr.Button(visible=self.studio.is_editable(kind)),
            self.detector: gr.Dropdown(**menu),
            **shown,
            **self.take(kind=kind, detector=menu["value"], **asked),
        }

    def clear(self, *, kind: str) -> dict[Any, Any]:
        return {self.picture: "", **self._nothing(kind)}

    def use_it(self, *, found: dict[str, str], goal: int | None) -> dict[Any, Any]:
        row = {} if goal is None else {"row": goal}
        return {self.page.new_map: handed(**found, **row), self.goal: None, **self.page.go("generate")}

    def follow(self, job: Job, *, picture: str, wanted: bool) -> dict[Any, Any]:
        kind = job.request["kind"]
        if not job.finished:
            waits = {self.use: gr.Button(interactive=False), self.edit: gr.Button(interactive=False)}
            return {self.result: gr.Image(visible=True), **waits, **self.editor.close()}
        if job.state != "done":
            return {self.wanted: False, **self._nothing(kind)}
        image = job.result()["map"]
        edited = self._edited(kind, image, picture) if wanted else {}
        return {self.wanted: False, **self._found(kind, image), **edited}

    def _nothing(self, kind: str) -> dict[Any, Any]:
        return {self.map: {}, **self._map(""), **self._buttons(kind, found=False), **self.editor.close()}

    def _found(self, kind: str, image: str) -> dict[Any, Any]:
        return {
            self.map: {"kind": kind, "image": image},
            **self._map(image),
            **self._buttons(kind, found=True),
            **self.editor.close(),
        }

    def _map(self, image: str) -> dict[Any, Any]:
        return {self.result: gr.Image(self._shown(image), visible=True)}

    def _buttons(self, kind: str, *, found: bool) -> dict[Any, Any]:
        return {
            self.use: gr.Button(interactive=found),
            self.edit: gr.Button(visible=found and self.studio.is_editable(kind), interactive=True),
            self.draw: gr.Button(visible=self.studio.is_editable(kind)),
        }

    # Editing

    def open_editor(self, *, found: dict[str, str], picture: str, moved: dict[str, Any]) -> dict[Any, Any]:
        return self._edited(found["kind"], found["image"], picture, moved)

    def leave_editor(self, *, found: dict[str, str], kind: str) -> dict[Any, Any]:
        return self._found(**found) if found else self._nothing(kind)

    def draw_new(self, *, kind: str, base: str, picture: str) -> dict[Any, Any]:
        """An empty map, over the picture if there is one, else of the base's own size."""
        side_px = next(b.default_size_px for b in self.studio.bases() if b.name == base)
        size = self.studio.image_size(picture) if picture else (side_px, side_px)
        return {**self._edited(kind, self.studio.empty_map(kind, *size), picture), **self.watch.dismiss()}

    def _edited(self, kind: str, image: str, photo: str, moved: dict[str, Any] | None = None) -> dict[Any, Any]:
        """The editor in place of the map, until it is done."""
        hidden = gr.Button(visible=False)
        return {
            self.result: gr.Image(visible=False),
            self.edit: hidden,
            self.draw: hidden,
            self.use: gr.Button(interactive=False),
            **self.editor.open(kind, image, photo, moved or {}),
        }

    def take_row(
        self, *, handed: dict[str, Any], base: str, kind: str, picture: str, moved: dict[str, Any], **asked: Any
    ) -> dict[Any, Any]:
        """Edit the map of a row of the Generate tab, which is taken first where the row holds a photo."""
        kind, image, is_map = handed["kind"], handed["image"], handed["detected"]
        photo = "" if is_map else image
        updates = {
            self.goal: handed["row"],
            self.picture: photo,
            self.upload: self._shown(photo),
            self.wanted: not is_map,
            **self._choose(kind, base, picture=photo, **asked),
        }
        return {**updates, **self._found(kind, image), **self._edited(kind, image, "", moved)} if is_map else updates

    def _kind_cards(self, chosen: str, base: str) -> str:
        cards = [
            Card(
                id=kind.name,
                title=kind.title,
                note=note(kind),
                chosen=kind.name == chosen,
                off=self.studio.why_not(base).control(kind.name),
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
