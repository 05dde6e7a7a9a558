"""The Series tab: one subject over a list of prompts and poses, and how well it stayed the same."""

import secrets
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadSettings
from engine.settings import MAX_SEED, ControlUse, GenerateSettings, LoraUse, SheetSettings
from engine.studio import Job
from ui.cards import Plain, headline, served, url
from ui.page import Page, into_view
from ui.watch import Watch

PROMPTS = {
    "Places": ("in a studio", "on a wooden table", "at the beach", "in a meadow", "in the snow", "at night"),
    "Poses": ("standing", "walking", "sitting", "waving", "with raised arms", "with arms stretched out"),
    "Expressions": ("smiling", "laughing", "surprised", "thoughtful", "angry", "sad"),
}
FIGURES = (
    ("identity", "Same subject", "Mean identity, as a share of what the photos of the subject reach among themselves"),
    ("agreement", "Like each other", "How alike the pictures are, as a share of how alike the subject's photos are"),
    ("variety", "Different pictures", "How far apart the pictures lie, as a share of how far apart the photos do"),
    ("prompt", "Prompts followed", "Mean share of the prompts that is seen in the pictures"),
)
NO_SHEET = '<p class="empty">The sheet appears here: every prompt, with how much of the subject it kept.</p>'


class ConsistencyTab:
    name, title = "consistency", "Series"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=5, elem_classes=["sheet"]):
                headline(
                    "Check that it stays the same",
                    "One subject over a set of prompts. Pictures that lost it are drawn again.",
                )
                self.lora = gr.Dropdown([], label="Subject", info="A LoRA trained here", elem_id="sheet-lora")
                self.prompt = gr.Textbox(label="Every prompt begins with", lines=1, elem_id="sheet-prompt")
                self.prompts = gr.Textbox(
                    "\n".join(PROMPTS["Places"]), label="And goes on with, one a line", lines=6, elem_id="sheet-prompts"
                )
                with gr.Row(elem_classes=["actions"]):
                    self.fills = {name: gr.Button(name, size="sm", min_width=80) for name in PROMPTS}
                with gr.Accordion("Poses to draw each prompt in", open=False):
                    self.poses = gr.File(
                        label="Photos of people, or pose maps",
                        file_count="multiple",
                        file_types=["image"],
                        height=110,
                        elem_id="sheet-poses",
                    )
                with gr.Accordion("Expert", open=False):
                    self.accept = gr.Slider(
                        0, 1, value=SheetSettings.accept, step=0.05, label="Draw again below", buttons=[],
                        info="Share of what real photos of the subject reach",
                    )  # fmt: skip
                    self.retries = gr.Slider(
                        0, 8, value=SheetSettings.retries, step=1, label="At most, times", buttons=[]
                    )
                    self.seed = gr.Number(0, label="Seed", info="0 takes one at random", precision=0, minimum=0)
                with gr.Column(elem_classes=["next"]):
                    self.notice = Plain(elem_id="sheet-notice")
                    self.go = gr.Button("Make the sheet", variant="primary", elem_id="make-sheet")
            with gr.Column(scale=7):
                self.watch = Watch(page, "sheet", every_s=0.7)
                self.figures = Plain(elem_id="sheet-figures")
                self.sheet = Plain(NO_SHEET, elem_id="sheet")
                self.download = gr.DownloadButton(
                    "Download the sheet and all pictures", visible=False, elem_id="download-sheet"
                )
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        page, on = self.page, partial(self.page.on, notice=self.notice)
        shown = [self.figures, self.sheet, self.download]
        on([page.app.load, tab.select], self.list_loras, inputs={"lora": self.lora}, outputs=[self.lora])
        on(self.lora.change, self.call_up, inputs={"lora": self.lora}, outputs=[self.prompt])
        for name, button in self.fills.items():
            on(button.click, partial(self.fill, name), outputs=[self.prompts])
        on(
            self.go.click,
            self.start,
            inputs={
                "base": page.base,
                "lora": self.lora,
                "prompt": self.prompt,
                "prompts": self.prompts,
                "poses": self.poses,
                "accept": self.accept,
                "retries": self.retries,
                "seed": self.seed,
            },
            outputs=[*self.watch.outputs, *shown],
        ).then(js=into_view("sheet-watch"))
        self.watch.follow(self.follow, shown)

    # Handlers

    def list_loras(self, *, lora: str | None) -> dict[Any, Any]:
        """The LoRAs of subjects; a style has none to keep."""
        subjects = [record for record in self.studio.loras() if record.settings.get("goal") not in (None, "style")]
        known = [record.id for record in subjects]
        value = lora if lora in known else next(iter(known), None)
        return {self.lora: gr.Dropdown([(record.name, record.id) for record in subjects], value=value)}

    def call_up(self, *, lora: str | None) -> dict[Any, Any]:
        if not lora:
            return {}
        record = self.studio.lora(lora)
        return {self.prompt: f"a photo of {record.trigger} {record.class_name}".strip()}

    def fill(self, name: str) -> dict[Any, Any]:
        return {self.prompts: "\n".join(PROMPTS[name])}

    def start(
        self,
        *,
        base: str,
        lora: str | None,
        prompt: str,
        prompts: str,
        poses: list[str] | None,
        accept: float,
        retries: int,
        seed: int | None,
    ) -> dict[Any, Any]:
        if not lora:
            raise BadSettings(
                "There is no subject yet.", "Train a LoRA of a product, face or character, or choose one."
            )
        chosen = next(b for b in self.studio.bases() if b.name == base)
        settings = SheetSettings(
            picture=GenerateSettings(
                prompt=prompt,
                base=base,
                loras=(LoraUse(lora=lora),),
                width=chosen.default_size_px,
                height=chosen.default_size_px,
                steps=chosen.default_steps,
                guidance_scale=chosen.default_guidance,
                seed=int(seed or secrets.randbelow(MAX_SEED)),
            ),
            prompts=tuple(line.strip() for line in prompts.splitlines() if line.strip()),
            poses=tuple(self._pose(Path(file)) for file in poses or ()),
            accept=accept,
            retries=int(retries),
        )
        job = self.studio.sheet(settings)
        return {self.figures: "", self.sheet: "", self.download: gr.DownloadButton(visible=False)} | self.watch.start(
            job
        )

    def _pose(self, file: Path) -> ControlUse:
        image = self.studio.keep_image(file)
        is_map = self.studio.map_kind(image, "openpose") == "openpose"
        return ControlUse(kind="openpose", image=image, detected=is_map)

    def follow(self, job: Job) -> dict[Any, Any]:
        if job.state != "done":
            return {self.sheet: "" if not job.finished else NO_SHEET}
        result = job.result()
        file = self.studio.image_file(result["sheet"])
        archive = served(self.studio.sheet_archive(job.token), "consistency-sheet.zip")
        return {
            self.figures: figures_html(result),
            self.sheet: f'<a class="result whole" href="{url(file)}" target="_blank" title="Open the sheet by itself">'
            f'<img src="{url(file)}" alt="The consistency sheet"></a>',
            self.download: gr.DownloadButton(visible=True, value=archive),
        }


def figures_html(result: dict[str, Any]) -> str:
    """The set score, and what it is made of."""
    parts = "".join(
        f'<span class="chip" title="{meaning}"><small>{title}</small>{100 * result[name]:.0f}%</span>'
        for name, title, meaning in FIGURES
        if name in result
    )
    again = sum(cell["rolls"] > 1 for cell in result["cells"])
    drawn = f'<span class="chip"><small>Drawn again</small>{again} of {len(result["cells"])}</span>'
    score = (
        f'<b title="Harmonic mean of what follows: copying one picture scores 0">{100 * result["set_score"]:.0f}</b>'
    )
    return f'<div class="set-score"><p>{score}<small>of 100 as a set</small></p><div>{parts}{drawn}</div></div>'
