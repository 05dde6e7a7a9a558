"""What CFG and the negative prompt do on a base, on the Generate tab: where they have no effect, they are greyed, with
the reason.
"""

from typing import Any

import gradio as gr

from engine.settings import GenerateSettings
from ui.cards import Plain, sentence
from ui.page import IN_TURN, Page

SCALES = ("guidance_scale", "true_cfg_scale")


class Guidance:
    def __init__(self, page: Page, inputs: dict[str, Any]) -> None:
        self.page, self.studio, self.inputs = page, page.studio, inputs
        self.notes = Plain(elem_id="guidance-notes")

    def wire(self) -> None:
        scales = {name: self.inputs[name] for name in SCALES}
        self.page.on(
            [self.page.app.load, self.page.base.change, *(scale.change for scale in scales.values())],
            self.describe,
            inputs={"base": self.page.base, **scales},
            outputs=[self.inputs["guidance_scale"], self.inputs["negative_prompt"]],
            notice=self.notes,
            **IN_TURN,
        )

    def describe(self, *, base: str, guidance_scale: float | None, true_cfg_scale: float) -> dict[Any, Any]:
        """CFG without effect is set to 1; a negative prompt without effect stays, for when it has one again."""
        if guidance_scale is None:  # a box that is being typed in
            return {}
        why_not = self.studio.why_not(base)
        asked = GenerateSettings(prompt="-", base=base, guidance_scale=guidance_scale, true_cfg_scale=true_cfg_scale)
        unguided, unread = why_not.guidance(), why_not.negative_prompt(asked)
        return {
            self.inputs["guidance_scale"]: gr.Number(value=1, interactive=False)
            if unguided
            else gr.Number(interactive=True),
            self.inputs["negative_prompt"]: gr.Textbox(interactive=not unread, info=unread or None),
            self.notes: sentence(unguided) if unguided else "",
        }
