"""Few-step LoRAs on the Generate tab: steps, CFG and scheduler follow them into the stack and out of it again.

Which LoRA is one, and what suits it, is the engine's to say. A recipe that is restored keeps its own numbers.
"""

from typing import Any

import gradio as gr

from engine.settings import SchedulerName
from ui.cards import Plain, sentence
from ui.form import SCHEDULERS
from ui.page import Page

FOLLOWING = ("steps", "guidance_scale", "scheduler")
NOTHING: dict[str, Any] = {"method": "", "before": {}}


class FewSteps:
    """`state` holds the method that the numbers follow, and the numbers that were there before."""

    def __init__(self, page: Page, inputs: dict[str, Any]) -> None:
        self.page, self.studio, self.inputs = page, page.studio, inputs
        self.state = gr.State(NOTHING)
        self.notice = Plain(elem_id="few-steps")
        self.undo = gr.Button("Keep my own numbers", size="sm", visible=False, elem_id="undo-few-steps")

    @property
    def following(self) -> dict[str, Any]:
        return {name: self.inputs[name] for name in FOLLOWING}

    @property
    def outputs(self) -> list[Any]:
        return [self.state, self.undo, *self.following.values()]

    def wire(self, changes: list[Any], loras: dict[str, Any]) -> None:
        """`changes` are the events after which the stack, whose menus `loras` are, may be another one."""
        asked = {"state": self.state, "base": self.page.base, **self.following, **loras}
        for change in changes:
            self.page.then(change, self.follow, inputs=asked, outputs=self.outputs, notice=self.notice)
        undone = {"state": self.state}
        self.page.on(self.undo.click, self.put_back, inputs=undone, outputs=self.outputs, notice=self.notice)

    def follow(
        self,
        *,
        state: dict[str, Any],
        base: str,
        steps: int,
        guidance_scale: float,
        scheduler: SchedulerName,
        **loras: str,
    ) -> dict[Any, Any]:
        found = self.studio.few_steps([lora for lora in loras.values() if lora], base)
        if found is None:
            return {**self.put_back(state=state), self.state: NOTHING}
        if found.title == state["method"]:
            return {self.state: state}
        now = {"steps": steps, "guidance_scale": guidance_scale, "scheduler": scheduler}
        values = {name: getattr(found, name) for name in FOLLOWING}
        called = next(title for title, name in SCHEDULERS if name == found.scheduler)
        scheduled = "" if found.scheduler == "default" else f" and the scheduler {called}"
        said = f"{found.title} needs few steps: {found.steps} steps, CFG {found.guidance_scale:g}{scheduled} are set."
        return {
            **{self.inputs[name]: value for name, value in values.items()},
            self.state: {"method": found.title, "before": state["before"] or now},
            self.notice: sentence(said),
            self.undo: gr.Button(visible=True),
        }

    def put_back(self, *, state: dict[str, Any]) -> dict[Any, Any]:
        """The numbers as they were; those of a method that stays in the stack are not set again."""
        return {
            **{self.inputs[name]: value for name, value in state["before"].items()},
            self.state: {"method": state["method"], "before": {}},
            self.notice: "",
            self.undo: gr.Button(visible=False),
        }

    def fill(self, loras: list[str], base: str) -> dict[Any, Any]:
        """For a recipe that is restored, whose own numbers stand."""
        found = self.studio.few_steps(loras, base)
        return {
            self.state: {"method": found.title if found else "", "before": {}},
            self.notice: "",
            self.undo: gr.Button(visible=False),
        }
