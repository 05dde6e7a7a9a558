"""Guidance for a part of the steps, step caches, kernels for attention, and compiled blocks, on the Generate tab: what
makes a picture faster.

What a base lacks is greyed, with the reason.
"""

from typing import Any

import gradio as gr

from engine.settings import AttentionName, GenerateSettings, StepCacheName
from ui import form
from ui.cards import Plain, listing
from ui.page import IN_TURN, Page

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
        with gr.Row():
            self._ask("attention", elem_id="attention")
            self._ask("compile", elem_id="compile")
        self.notes = Plain(elem_id="speed-notes")

    def _ask(self, name: str, **kwargs: Any) -> None:
        self.inputs[name] = form.build(GenerateSettings, name, min_width=160, **kwargs)

    def wire(self) -> None:
        names = ("guidance_start", "guidance_end", "step_cache", "step_cache_threshold", "attention", "compile")
        layouts = {name: part for name, part in self.inputs.items() if name.startswith("controls.") and "image" in name}
        named = {name: self.inputs[name] for name in ("step_cache", "attention")}
        chosen = {"base": self.page.base, **named, **layouts}
        self.page.on(
            [self.page.app.load, *(component.change for component in chosen.values())],
            self.describe,
            inputs=chosen,
            outputs=[self.inputs[name] for name in names],
            notice=self.notes,
            **IN_TURN,
        )

    def describe(
        self, *, base: str, step_cache: StepCacheName, attention: AttentionName, **layouts: str
    ) -> dict[Any, Any]:
        """What the base cannot do is greyed and set to do nothing; what stands in the way of a choice is said."""
        why_not = self.studio.why_not(base)
        caches, unguided = why_not.base.spec.step_caches, why_not.guidance_interval()
        choices = [(title, name) for title, name in form.STEP_CACHES if name in ("none", *caches)]
        in_use = step_cache in caches
        is_off = in_use and any(layouts.values())
        no_kernel = why_not.attention("math")  # which takes neither a package nor a GPU
        asked = GenerateSettings(prompt="-", base=base, step_cache=step_cache if in_use else "none")
        said = [
            "The step cache is off while there is a layout: with it, the layout may not hold." if is_off else "",
            "" if no_kernel else why_not.attention(attention),
        ]
        return {
            self.inputs["guidance_start"]: self._unless(unguided, "guidance_start", 0.0),
            self.inputs["guidance_end"]: self._unless(unguided, "guidance_end", 1.0),
            self.inputs["step_cache"]: gr.Dropdown(
                choices,
                value=step_cache if in_use else "none",
                interactive=bool(caches),
                info=form.GENERATE["step_cache"].info if caches else NO_CACHE,
            ),
            self.inputs["step_cache_threshold"]: gr.Slider(visible=in_use),
            self.inputs["attention"]: self._unless(no_kernel, "attention", "auto"),
            self.inputs["compile"]: self._unless(why_not.compile(asked), "compile", False),
            self.notes: listing(("warn", one) for one in said if one),
        }

    def _unless(self, why_not: str, name: str, nothing: Any) -> Any:
        """How a setting is shown: greyed, with the reason, and set to do `nothing` where it cannot be."""
        if why_not:
            return gr.update(value=nothing, interactive=False, info=why_not)
        return gr.update(interactive=True, info=form.GENERATE[name].info)
