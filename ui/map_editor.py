"""Editing a map by hand, on the Layout tab: a brush for lines and areas, joints to drag for a pose.

It is opened on a map and says what came of it; where the map is from, and where it goes, is left to the tab.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr

from engine.controls.skeletons import as_values
from ui.brush import Brush, Ink, brush_view, drawing
from ui.cards import Plain, url
from ui.page import Page
from ui.pose_editor import PoseEditor, pose_view

WHITE, BLACK = "#ffffff", "#000000"
PENS_PX = {"canny": 2, "lines": 2, "segmentation": 24}
USUAL_PEN_PX = 6


class MapEditor:
    """`box` is visible while a map is edited. `edited` holds its kind and size, and `moved` the people of the pose map
    that was edited last: a drawn map tells less of them."""

    def __init__(self, page: Page) -> None:
        self.page, self.studio = page, page.studio
        self.edited, self.moved = gr.State({}), gr.State({})
        with gr.Column(visible=False, elem_id="map-editor") as self.box:
            self.brush = Brush(elem_id="brush")
            self.pose = PoseEditor(elem_id="pose")
            self.notice = Plain(elem_id="map-editor-notice")
        self.outputs = [self.box, self.brush, self.pose, self.edited, self.moved, self.notice]

    @property
    def cancelled(self) -> list[Callable[..., Any]]:
        """The events that say that the map is to be left as it was."""
        return [self.brush.submit, self.pose.submit]

    def wire(self, done: Callable[[str, str], dict[Any, Any]], outputs: Sequence[Any]) -> None:
        """`done(kind, image)` says what the tab shows of an edited map."""

        def draw(event: gr.EventData, *, edited: dict[str, Any]) -> dict[Any, Any]:
            return done(edited["kind"], self.studio.keep_drawn_map(edited["kind"], drawing(event.png)))

        def pose(event: gr.EventData, *, edited: dict[str, Any]) -> dict[Any, Any]:
            image = self.studio.keep_pose_map(event.people, *edited["size"])
            return {**done(edited["kind"], image), self.moved: {"image": image, "people": event.people}}

        on = partial(self.page.on, inputs={"edited": self.edited}, outputs=outputs, notice=self.notice)
        on(self.brush.release, draw)
        on(self.pose.release, pose)

    def open(self, kind: str, image: str, photo: str, moved: dict[str, Any]) -> dict[Any, Any]:
        """Show a map to be changed, over the photo that it was taken from, if any."""
        size = self.studio.image_size(image)
        pose = self._pose(image, photo, moved, size) if kind == "openpose" else ""
        return {
            self.box: gr.Column(visible=True),
            self.brush: "" if pose else self._brush(kind, image, photo),
            self.pose: pose,
            self.edited: {"kind": kind, "size": size},
            self.notice: "",
        }

    def close(self) -> dict[Any, Any]:
        return {self.box: gr.Column(visible=False), self.brush: "", self.pose: ""}

    def _brush(self, kind: str, image: str, photo: str) -> str:
        draw_on = partial(
            brush_view, self._url(image), width=PENS_PX.get(kind, USUAL_PEN_PX), photo_url=self._url(photo)
        )
        if kind != "segmentation":
            return draw_on([Ink("White", WHITE)], paper=BLACK)
        present, every = ([Ink(*area) for area in areas] for areas in self.studio.areas(image))
        return draw_on(present, more=every)

    def _pose(self, image: str, photo: str, moved: dict[str, Any], size: tuple[int, int]) -> str:
        stands = self.studio.standing_person(*size)
        if moved.get("image") == image:
            people = moved["people"]
        else:
            people = as_values(self.studio.people(photo or image)) or as_values([stands])
        return pose_view(self._url(photo or image), people, as_values([stands])[0], *size)

    def _url(self, image: str) -> str:
        return url(self.studio.image_file(image)) if image else ""
