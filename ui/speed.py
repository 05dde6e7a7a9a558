"""Guidance for a part of the steps, and step caches, on the Generate tab: what makes a picture faster.

What a base lacks is greyed, with the reason.
"""

from typing import Any

import gradio as gr

from engine.settings import GenerateSettings, StepCacheName
from ui import form
from ui.cards import Plain, sentence
from ui.page import Page

NO_CACHE = "This base has none: step caches are for transformers, such as Flux."


class Speed:
    def __init__(self, page: Page, inputs: dict[str, Any]) -> None:
        self.page, self.studio, self.inputs = page, page.studio, inputs
        with gr.Row():
            for name in ("guidance_start", "guidance_end"):
                self._ask(name, elem_id=name.replace("_", "-"))
        with gr.Row():
            self._ask("step_cache", elem_id="step-cache")
            self._ask("step_cache_threshold")
        self.notes = Plain(elem_id="speed-notes")

    def _ask(self, name: str, **kwargs: Any) -> None:
        self.inputs[name] = form.build(GenerateSettings, name, min_width=160, **kwargs)

    def wire(self) -> None:
        names = ("guidance_start", "guidance_end", "step_cache", "step_cache_threshold")
        layouts = {name: part for name, part in self.inputs.items() if name.startswith("controls.") and "image" in name}
        cache = self.inputs["step_cache"]
        self.page.on(
            [self.page.app.load, self.page.base.change, cache.change, *(image.change for image in layouts.values())],
            self.describe,
            inputs={"base": self.page.base, "step_cache": cache, **layouts},
            outputs=[self.inputs[name] for name in names],
            notice=self.notes,
            trigger_mode="always_last",
        )

    def describe(self, *, base: str, step_cache: StepCacheName, **layouts: str) -> dict[Any, Any]:
        """What the base cannot do is greyed and set to do nothing; what stands in a cache's way is said."""
        why_not, caches = self.studio.why_not_guidance_interval(base), self.studio.step_caches(base)
        choices = [(title, name) for title, name in form.STEP_CACHES if name in ("none", *caches)]
        in_use = step_cache in caches
        is_off = in_use and any(layouts.values())
        said = "The step cache is off while there is a layout: with it, the layout may not hold."
        return {
            self.inputs["guidance_start"]: self._limit("guidance_start", 0.0, why_not),
            self.inputs["guidance_end"]: self._limit("guidance_end", 1.0, why_not),
            self.inputs["step_cache"]: gr.Dropdown(
                choices,
                value=step_cache if in_use else "none",
                interactive=bool(caches),
                info=form.GENERATE["step_cache"].info if caches else NO_CACHE,
            ),
            self.inputs["step_cache_threshold"]: gr.Slider(visible=in_use),
            self.notes: sentence(said, "warn") if is_off else "",
        }

    def _limit(self, name: str, whole: float, why_not: str) -> gr.Slider:
        if why_not:
            return gr.Slider(value=whole, interactive=False, info=why_not)
        return gr.Slider(interactive=True, info=form.GENERATE[name].info)
