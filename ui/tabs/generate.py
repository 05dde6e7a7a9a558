"""The Generate tab: the prompt, the three legs it stands on (what, where, how it looks), and the pictures."""

import secrets
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadImage, BadSettings
from engine.settings import MAX_SEED, ControlUse, GenerateSettings, LoraUse, StyleUse
from engine.studio import Job, LoraRecord, Recipe
from ui import form
from ui.cards import Card, Choice, Level, Plain, grid, headline, label, listing, sentence, served, url
from ui.page import AS_UPLOADED, PROGRESS, Page, into_view
from ui.tabs.control import sample_cards
from ui.watch import Watch, preview_html

LORA_ROWS = 8
HISTORY_PAGE = 24
NO_LORA = ("None", "")
NO_PICTURE = '<div class="result"><p class="empty">The picture appears here.</p></div>'


class GenerateTab:
    """`inputs` holds the component of every setting by its dotted name. Images are content hashes in `gr.State`, each
    beside the `gr.Image` that shows it; `picture` is the id of the picture in the viewer."""

    name, title = "generate", "Generate"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        self.inputs: dict[str, Any] = {"base": page.base}
        self.last = page.remembered("settings", {})
        self.picture, self.limit = gr.State(""), gr.State(HISTORY_PAGE)
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=7, elem_classes=["sheet"]):
                headline(
                    "Make the picture",
                    "Say what it shows, and stand it on up to three legs: what, where, and how it looks.",
                )
                self._ask("prompt", elem_id="prompt", autofocus=False)
                with gr.Row(elem_classes=["legs"]):
                    with gr.Column(min_width=190, elem_classes=["leg", "what"]):
                        self._what()
                    with gr.Column(min_width=190, elem_classes=["leg", "where"]):
                        self._where()
                    with gr.Column(min_width=190, elem_classes=["leg", "look"]):
                        self._look()
                with gr.Row(elem_classes=["numbers"]):
                    for name in ("guidance_scale", "steps", "width", "height", "count", "seed"):
                        self._ask(name, min_width=84, info=None, elem_id=name.replace("_", "-"))
                    self.random = gr.Checkbox(True, label="Random", min_width=90, elem_id="random-seed")
                self._ask("negative_prompt", elem_id="negative-prompt")
                with gr.Accordion("Expert", open=False):
                    self._ask("scheduler")
                with gr.Column(elem_classes=["next"]):
                    self.notice = Plain(elem_id="generate-notice")
                    self.go = gr.Button("Generate", variant="primary", elem_id="go")
            with gr.Column(scale=5, elem_classes=["results"]):
                self.viewer = Plain(NO_PICTURE, elem_id="viewer")
                self.watch = Watch(page, "generate", preview=False, every_s=0.4)
                self.batch = Choice(elem_id="batch")
                with gr.Column(visible=False) as self.actions:
                    self.details = Plain(elem_id="details")
                    with gr.Row(elem_classes=["actions"]):
                        self.download = gr.DownloadButton("Download", size="sm", min_width=90, elem_id="download")
                        self.again = gr.Button("Use again", size="sm", min_width=90, elem_id="use-again")
                        self.vary = gr.Button("Vary the seed", size="sm", min_width=110)
                        self.forget = gr.Button("Delete", size="sm", min_width=70, variant="stop")
                label("History")
                self.history = Choice(elem_id="history")
                self.more = gr.Button("Show more", size="sm", visible=False)
                self.picture_notice = Plain(elem_id="picture-notice")
                self.drop = gr.File(
                    label="Drop a Tripod picture to restore its settings",
                    height=70,
                    elem_id="restore",
                )
        self._wire(tab)

    # Lay-out

    def _ask(self, name: str, **kwargs: Any) -> None:
        self.inputs[name] = form.build(GenerateSettings, name, **kwargs)

    def _ask_row(self, rows: str, row: int, name: str, cls: Any, **kwargs: Any) -> Any:
        component = self.inputs[f"{rows}.{row}.{name}"] = form.build(cls, name, **kwargs)
        return component

    def _when(self, rows: str, cls: Any) -> None:
        """When it acts: shares of the steps, folded away."""
        with gr.Accordion("When", open=False):
            for name in ("start", "end"):
                self._ask_row(rows, 0, name, cls, info=None)

    def _what(self) -> None:
        label("What", "your LoRAs")
        self.rows, self.thumbnails, self.removes, self.tunings = [], [], [], []
        for row in range(LORA_ROWS):
            with gr.Column(visible=row == 0, elem_classes=["lora"]) as box:
                with gr.Row(elem_classes=["pick"]):
                    self.thumbnails.append(Plain(min_width=0))
                    self._ask_row(
                        "loras",
                        row,
                        "lora",
                        LoraUse,
                        choices=[NO_LORA],
                        value="",
                        container=False,
                        min_width=60,
                        elem_id=f"lora-{row}",
                    )
                    self.removes.append(gr.Button("×", size="sm", min_width=0, visible=False, elem_id=f"remove-{row}"))
                with gr.Column(visible=False) as tuning:
                    self._ask_row("loras", row, "weight", LoraUse, info=None, elem_id=f"weight-{row}")
            self.rows.append(box)
            self.tunings.append(tuning)
        self.hint = Plain(elem_id="trigger-hint")
        self.add_lora = gr.UploadButton("Add a LoRA file", size="sm", elem_id="add-lora")
        self.checking = Plain(elem_classes=["counting"])
        self.lora_notice = Plain(elem_id="lora-notice")
        with gr.Accordion("When", open=False):
            for row in range(LORA_ROWS):
                with gr.Column(visible=row == 0) as tuning:
                    for name in ("start", "end"):
                        label_of = f"{row + 1}: {form.FORMS[LoraUse][name].label}"
                        self._ask_row("loras", row, name, LoraUse, info=None, label=label_of)
                self.tunings.append(tuning)

    def _where(self) -> None:
        label("Where", "a layout to follow")
        kinds = [(kind.title, kind.name) for kind in self.studio.control_kinds()]
        self.control = self._image("controls", "control-picture")
        self.control_notice = Plain(elem_id="control-notice")
        self.compositions = Choice(
            grid(sample_cards(self.studio.samples().compositions), "dots"), elem_id="sample-layouts"
        )
        self._ask_row("controls", 0, "kind", ControlUse, choices=kinds, value=kinds[0][1], elem_id="control-kind")
        self.unfit = Plain(elem_id="control-unfit")
        self._ask_row("controls", 0, "strength", ControlUse, info=None)
        self._ask_row("controls", 0, "detected", ControlUse)
        self._when("controls", ControlUse)

    def _look(self) -> None:
        label("How it looks", "a picture to borrow from")
        self.style = self._image("styles", "style-picture")
        self.style_notice = Plain(elem_id="style-notice")
        self.looks = Choice(grid(sample_cards(self.studio.samples().looks), "dots"), elem_id="sample-looks")
        self._ask_row("styles", 0, "target", StyleUse, info=None)
        self._ask_row("styles", 0, "weight", StyleUse, info=None)
        self._when("styles", StyleUse)

    def _image(self, rows: str, elem_id: str) -> gr.Image:
        self.inputs[f"{rows}.0.image"] = gr.State("")
        return gr.Image(sources=["upload"], show_label=False, height=130, buttons=[], elem_id=elem_id)

    # Wiring

    def _wire(self, tab: gr.Tab) -> None:
        page, inputs, on = self.page, self.inputs, partial(self.page.on, notice=self.notice)
        on_picture = partial(self.page.on, notice=self.picture_notice)
        menus = [inputs[f"loras.{row}.lora"] for row in range(LORA_ROWS)]
        stack = [*menus, *self.rows, *self.thumbnails, *self.removes, *self.tunings, self.hint]
        chosen = {f"lora_{row}": menu for row, menu in enumerate(menus)}
        everything = [*inputs.values(), self.random, self.control, self.style, *stack]
        control_hash, style_hash = inputs["controls.0.image"], inputs["styles.0.image"]
        viewer = [self.viewer, self.actions, self.details, self.download, self.picture]
        listed = [self.history, self.more]
        started = [*self.watch.outputs, *viewer, self.batch, inputs["seed"], self.last]

        on([page.app.load, tab.select], self.list_loras, inputs=chosen, outputs=stack)
        on([menu.input for menu in menus], self.show_stack, inputs=chosen, outputs=stack)
        on(page.app.load, self.reload, inputs={"last": self.last, "base": page.base}, outputs=everything)
        on_lora, on_control, on_style = (
            partial(page.on, notice=notice) for notice in (self.lora_notice, self.control_notice, self.style_notice)
        )
        for row, remove in enumerate(self.removes):
            weight = inputs[f"loras.{row}.weight"]
            on_lora(remove.click, partial(self.remove_lora, row), inputs=chosen, outputs=[*stack, weight])
        on_lora(
            page.new_lora.change,
            self.take_lora,
            inputs={"handed": page.new_lora, "prompt": inputs["prompt"], **chosen},
            outputs=[*stack, inputs["prompt"]],
        )
        on_lora(
            self.add_lora.upload,
            self.import_lora,
            inputs={"file": self.add_lora, "base": page.base, "prompt": inputs["prompt"], **chosen},
            outputs=[*stack, inputs["prompt"]],
            show_progress="full",
            show_progress_on=self.checking,
        )
        layout = [control_hash, self.control, inputs["controls.0.kind"], inputs["controls.0.detected"]]
        on(page.new_map.change, self.take_map, inputs={"handed": page.new_map}, outputs=layout)
        on_control(
            self.control.upload,
            self.take_control,
            inputs={"file": self.control, "image": control_hash},
            outputs=layout,
            **AS_UPLOADED,
        )
        on(self.compositions.select, self.take_composition, outputs=layout)
        on_control(self.control.clear, lambda: {control_hash: ""}, outputs=[control_hash])
        on_style(
            self.style.upload,
            self.take_style,
            inputs={"file": self.style, "image": style_hash},
            outputs=[style_hash, self.style],
            **AS_UPLOADED,
        )
        on(self.looks.select, self.take_look, outputs=[style_hash, self.style])
        on_style(self.style.clear, lambda: {style_hash: ""}, outputs=[style_hash])

        on(
            [self.go.click, inputs["prompt"].submit],
            self.generate,
            inputs={"random": self.random, **inputs},
            outputs=started,
        ).then(js=into_view("generate-watch"))
        on_picture(
            self.vary.click,
            self.generate_varied,
            inputs={"picture": self.picture},
            outputs=started,
        ).then(js=into_view("generate-watch"))
        self.watch.follow(self.follow, [*viewer, *listed, self.batch])

        for cards in (self.history, self.batch):
            on_picture(cards.select, self.view, outputs=viewer)
        on_picture(self.again.click, self.use_again, inputs={"picture": self.picture}, outputs=everything)
        on_picture(
            self.forget.click,
            self.delete,
            inputs={"picture": self.picture, "limit": self.limit},
            outputs=[*viewer, *listed, self.batch],
            js="(id, limit) => confirm('Delete this picture for good?') ? [id, limit] : ['', limit]",
        )
        on_picture([page.app.load, tab.select], self.list_pictures, inputs={"limit": self.limit}, outputs=listed)
        on_picture(self.more.click, self.list_more, inputs={"limit": self.limit}, outputs=[*listed, self.limit])
        on_picture(self.drop.upload, self.restore, inputs={"file": self.drop}, outputs=everything).then(
            lambda: None, outputs=self.drop, api_visibility="private", show_progress="hidden"
        )
        on(
            page.base.input,
            self.defaults,
            inputs={"base": page.base},
            outputs=[inputs[name] for name in ("width", "height", "steps", "guidance_scale")],
        )
        kind = inputs["controls.0.kind"]
        on(
            [page.app.load, page.base.change, kind.change],
            self.suit_base,
            inputs={"base": page.base, "kind": kind},
            outputs=[kind, self.unfit],
        )

    # What, where, how it looks

    def list_loras(self, **loras: str) -> dict[Any, Any]:
        """The LoRAs to choose from, without those that were deleted. What else is chosen stays, as another event may
        just be choosing it."""
        choices = self._choices()
        known = {id_ for _, id_ in choices}
        if not known.issuperset(loras.values()):
            return self.fill_stack(**{row: id_ if id_ in known else "" for row, id_ in loras.items()})
        return {self.inputs[f"loras.{row}.lora"]: gr.Dropdown(choices) for row in range(LORA_ROWS)}

    def _choices(self) -> list[tuple[str, str]]:
        return [NO_LORA, *((record.name, record.id) for record in self.studio.loras())]

    def show_stack(self, **loras: str) -> dict[Any, Any]:
        """The filled rows and one free one, and the words that call up what is chosen."""
        records = [self.studio.lora(lora) if lora else None for lora in loras.values()]
        free = records.index(None) if None in records else None
        called_up_by = dict.fromkeys(called(record) for record in records if record)
        words = " and ".join(f"“{phrase}”" for phrase in called_up_by if phrase)
        updates: dict[Any, Any] = {self.hint: sentence(f"Write {words} in the prompt to call it up.") if words else ""}
        for row, record in enumerate(records):
            updates |= {
                self.rows[row]: gr.Column(visible=record is not None or row == free),
                self.thumbnails[row]: self._thumbnail(record) if record else "",
                self.removes[row]: gr.Button(visible=record is not None),
                **{box: gr.Column(visible=record is not None) for box in self.tunings[row::LORA_ROWS]},
            }
        return updates

    def _thumbnail(self, record: LoraRecord) -> str:
        if not record.samples:
            return '<span class="frame lora-mark" aria-hidden="true">LoRA</span>'
        return f'<span class="frame"><img src="{url(self.studio.thumbnail(record.samples[-1], 96))}" alt=""></span>'

    def remove_lora(self, row: int, **loras: str) -> dict[Any, Any]:
        """Free the row; its weight is that of a new one again."""
        loras[f"lora_{row}"] = ""
        return {self.inputs[f"loras.{row}.weight"]: LoraUse.weight, **self.fill_stack(**loras)}

    def fill_stack(self, **loras: str) -> dict[Any, Any]:
        """Choose these LoRAs, one a row."""
        choices = self._choices()
        return {
            **{self.inputs[f"loras.{r}.lora"]: gr.Dropdown(choices, value=id_) for r, id_ in enumerate(loras.values())},
            **self.show_stack(**loras),
        }

    def take_lora(self, *, handed: dict[str, Any], prompt: str, **loras: str) -> dict[Any, Any]:
        """Put the LoRA on the first free row; an empty prompt starts with its trigger word."""
        record = self.studio.lora(handed["lora"])
        if record.id not in loras.values():
            free = next((name for name, id_ in loras.items() if not id_), None)
            if free is None:
                raise BadSettings(f"There are {LORA_ROWS} LoRAs already.", "Take one away first.")
            loras[free] = record.id
        start = prompt or f"a photo of {called(record)}".strip()
        return {self.inputs["prompt"]: start, **self.fill_stack(**loras)}

    def import_lora(
        self, progress: gr.Progress = PROGRESS, *, file: str, base: str, prompt: str, **loras: str
    ) -> dict[Any, Any]:
        path = Path(file)
        progress(0, desc=f"Checking {path.name}")
        record = self.studio.import_lora(path, name=path.stem, base=base)
        return self.take_lora(handed={"lora": record.id}, prompt=prompt, **loras)

    def take_map(self, *, handed: dict[str, Any]) -> dict[Any, Any]:
        return self._layout(handed["image"], kind=handed["kind"], detected=True)

    def take_control(self, *, file: dict[str, Any], image: str) -> dict[Any, Any]:
        try:
            image = self.studio.keep_image(Path(file["path"]))
        except BadImage as error:
            return {self.control_notice: sentence(str(error), "bad"), self.control: self._shown(image)}
        return {self.inputs["controls.0.image"]: image, self.inputs["controls.0.detected"]: False}

    def take_composition(self, event: gr.EventData) -> dict[Any, Any]:
        return self._layout(self._keep_sample(self.studio.samples().compositions, event.id), detected=False)

    def _layout(self, image: str, *, detected: bool, kind: str | None = None) -> dict[Any, Any]:
        return {
            self.inputs["controls.0.image"]: image,
            self.control: self._shown(image),
            self.inputs["controls.0.detected"]: detected,
            **({self.inputs["controls.0.kind"]: kind} if kind else {}),
        }

    def suit_base(self, *, base: str, kind: str) -> dict[Any, Any]:
        """Say beside each kind, and below the menu, when the base cannot follow it."""
        reasons = {k: self.studio.why_not_control(k.name, base) for k in self.studio.control_kinds()}
        choices = [(f"{k.title} (not with this base)" if reason else k.title, k.name) for k, reason in reasons.items()]
        now = next((reason for k, reason in reasons.items() if k.name == kind), "")
        said = sentence(f"{now} Choose another kind, or another base at the top.", "warn") if now else ""
        return {self.inputs["controls.0.kind"]: gr.Dropdown(choices), self.unfit: said}

    def take_style(self, *, file: dict[str, Any], image: str) -> dict[Any, Any]:
        try:
            return {self.inputs["styles.0.image"]: self.studio.keep_image(Path(file["path"]))}
        except BadImage as error:
            return {self.style_notice: sentence(str(error), "bad"), self.style: self._shown(image)}

    def take_look(self, event: gr.EventData) -> dict[Any, Any]:
        image = self._keep_sample(self.studio.samples().looks, event.id)
        return {self.inputs["styles.0.image"]: image, self.style: self._shown(image)}

    def _keep_sample(self, samples: Any, name: str) -> str:
        return self.studio.keep_image(next(sample.file for sample in samples if sample.name == name))

    def _shown(self, image: str) -> str | None:
        return served(self.studio.image_file(image)) if image else None

    def defaults(self, *, base: str) -> dict[Any, Any]:
        """A base's own size, steps and CFG, when the person changes to it."""
        chosen = next(b for b in self.studio.bases() if b.name == base)
        return {
            self.inputs["width"]: chosen.default_size_px,
            self.inputs["height"]: chosen.default_size_px,
            self.inputs["steps"]: chosen.default_steps,
            self.inputs["guidance_scale"]: chosen.default_guidance,
        }

    # Pictures

    def generate(self, *, random: bool, **inputs: Any) -> dict[Any, Any]:
        settings = form.parse(GenerateSettings, inputs)
        return self._start(settings.replace(seed=secrets.randbelow(MAX_SEED)) if random else settings)

    def generate_varied(self, *, picture: str) -> dict[Any, Any]:
        settings = self._recipe(picture).settings
        return self._start(settings.replace(seed=secrets.randbelow(MAX_SEED), count=1))

    def _start(self, settings: GenerateSettings) -> dict[Any, Any]:
        job = self.studio.generate(settings)
        return {
            self.inputs["seed"]: settings.seed,
            self.last: settings.to_dict(),
            self.batch: "",
            **self._unfinished(job),
            **self.watch.start(job),
        }

    def _unfinished(self, job: Job) -> dict[Any, Any]:
        """What is known of the picture so far, at the place and in the shape of the finished one."""
        preview = job.progress().preview
        shape = "aspect-ratio:{width}/{height}".format(**job.request)
        return {
            self.viewer: f'<div class="result" style="{shape}">{preview_html(preview) if preview else ""}</div>',
            self.actions: gr.Column(visible=False),
        }

    def follow(self, job: Job) -> dict[Any, Any]:
        if not job.finished:
            return self._unfinished(job)
        if job.state != "done":  # the pictures finished before it stopped are kept
            return {self.viewer: NO_PICTURE, **self.list_pictures(limit=HISTORY_PAGE)}
        pictures = job.result()["pictures"]
        return {
            self.batch: grid([self._card(id_) for id_ in pictures], "strip") if len(pictures) > 1 else "",
            **self._view(pictures[0]),
            **self.list_pictures(limit=HISTORY_PAGE),
        }

    def view(self, event: gr.EventData) -> dict[Any, Any]:
        return self._view(event.id)

    def _view(self, picture: str) -> dict[Any, Any]:
        file, recipe = self.studio.picture_file(picture), self._recipe(picture)
        s = recipe.settings
        return {
            self.viewer: f'<a class="result" href="{url(file)}" target="_blank" title="Open the picture by itself">'
            f'<img src="{url(file)}" width="{s.width}" height="{s.height}" alt="{escape(s.prompt)}"></a>',
            self.download: served(file),
            self.actions: gr.Column(visible=True),
            self.details: details(recipe),
            self.picture: picture,
        }

    def _recipe(self, picture: str) -> Recipe:
        return Recipe.from_dict(self.studio.picture(picture).recipe)

    def delete(self, *, picture: str, limit: int) -> dict[Any, Any]:
        if not picture:  # the person thought better of it
            return {}
        self.studio.delete_picture(picture)
        cleared = {self.viewer: NO_PICTURE, self.actions: gr.Column(visible=False), self.picture: "", self.batch: ""}
        return cleared | self.list_pictures(limit=limit)

    def list_pictures(self, *, limit: int) -> dict[Any, Any]:
        records = self.studio.pictures(limit + 1)
        return {
            self.history: grid(
                [self._card(r.id) for r in records[:limit]], "squares small", "Your pictures gather here."
            ),
            self.more: gr.Button(visible=len(records) > limit),
        }

    def list_more(self, *, limit: int) -> dict[Any, Any]:
        return {self.limit: limit + HISTORY_PAGE, **self.list_pictures(limit=limit + HISTORY_PAGE)}

    def _card(self, picture: str) -> Card:
        return Card(id=picture, image=self.studio.picture_thumbnail(picture), hint="Show this picture")

    # Settings back into the page

    def reload(self, *, last: dict[str, Any], base: str) -> dict[Any, Any]:
        return self.fill(GenerateSettings.from_dict(last)) if last else self.defaults(base=base)

    def use_again(self, *, picture: str) -> dict[Any, Any]:
        return self._restored(self.studio.picture_file(picture))

    def restore(self, *, file: str) -> dict[Any, Any]:
        return self._restored(Path(file))

    def _restored(self, png: Path) -> dict[Any, Any]:
        recipe, missing = self.studio.restore(png)
        settings = recipe.settings.replace(seed=recipe.seed, count=1)
        if form.parse(GenerateSettings, form.spread(settings, self.inputs)) != settings:
            missing.append("It has more layouts or looks than fit on the page: the first of each are back.")
        said: list[tuple[Level, str]] = [("warn", problem) for problem in missing]
        back = "Everything else is back." if missing else "Every setting of that picture is back."
        said.append(("good", f"{back} Press Generate to make it again."))
        return {self.picture_notice: listing(said), self.random: False, **self.fill(settings)}

    def fill(self, settings: GenerateSettings) -> dict[Any, Any]:
        """Every control set to `settings`, pictures included."""
        values = form.spread(settings, self.inputs)
        loras = {f"lora_{row}": values[f"loras.{row}.lora"] or "" for row in range(LORA_ROWS)}
        return {
            **{component: values[name] for name, component in self.inputs.items()},
            **self.fill_stack(**loras),
            self.control: self._shown(values["controls.0.image"]),
            self.style: self._shown(values["styles.0.image"]),
        }


def called(record: LoraRecord) -> str:
    """The words that call up what a LoRA was taught."""
    return f"{record.trigger} {record.class_name}".strip()


def details(recipe: Recipe) -> str:
    s = recipe.settings
    facts = [f"seed {recipe.seed}", f"{s.width} × {s.height}", f"{s.steps} steps", f"CFG {s.guidance_scale:g}"]
    facts += [f"{use.lora} {use.weight:g}" for use in s.loras] + [f"{use.kind} {use.strength:g}" for use in s.controls]
    facts += [f"look {use.weight:g}" for use in s.styles]
    return f'<p class="prompt">{escape(s.prompt)}</p><p class="facts">{escape(" · ".join(facts))}</p>'
