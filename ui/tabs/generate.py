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
LAYOUT_ROWS = 4
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
        self.kinds = {kind.name: kind for kind in self.studio.control_kinds()}
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

    def _when(self, rows: str, row: int, cls: Any) -> None:
        """When it acts: shares of the steps, folded away."""
        with gr.Accordion("When", open=False):
            for name in ("start", "end"):
                self._ask_row(rows, row, name, cls, info=None)

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
        label("Where", "layouts to follow, together")
        self.shown = gr.State([0])
        self.layouts, self.controls, self.frees, self.notes, self.layout_notices = [], [], [], [], []
        for row in range(LAYOUT_ROWS):
            with gr.Column(visible=row == 0, elem_classes=["lora", "where-row"], elem_id=f"layout-{row}") as box:
                with gr.Row(elem_classes=["pick"]):
                    self._ask_row(
                        "controls",
                        row,
                        "kind",
                        ControlUse,
                        choices=[(kind.title, kind.name) for kind in self.kinds.values()],
                        value=next(iter(self.kinds)),
                        container=False,
                        min_width=60,
                        elem_id=f"control-kind-{row}",
                    )
                    free = gr.Button("×", size="sm", min_width=0, elem_id=f"remove-layout-{row}")
                self.controls.append(self._image("controls", row, f"control-picture-{row}"))
                self.layout_notices.append(Plain(elem_id=f"control-notice-{row}"))
                self._ask_row("controls", row, "strength", ControlUse, info=None, elem_id=f"control-strength-{row}")
                self.notes.append(Plain(elem_id=f"control-notes-{row}"))
                self._ask_row("controls", row, "detected", ControlUse, info="Used as it is, not taken from a photo")
                self._when("controls", row, ControlUse)
            self.layouts.append(box)
            self.frees.append(free)
        self.compositions = Choice(
            grid(sample_cards(self.studio.samples().compositions), "dots"), elem_id="sample-layouts"
        )
        self.add_layout = gr.Button("Add a layout", size="sm", elem_id="add-layout")
        self.where_notice = Plain(elem_id="where-notice")

    def _look(self) -> None:
        label("How it looks", "a picture to borrow from")
        self.style = self._image("styles", 0, "style-picture")
        self.style_notice = Plain(elem_id="style-notice")
        self.looks = Choice(grid(sample_cards(self.studio.samples().looks), "dots"), elem_id="sample-looks")
        self._ask_row("styles", 0, "target", StyleUse, info=None)
        self._ask_row("styles", 0, "weight", StyleUse, info=None)
        self._when("styles", 0, StyleUse)

    def _image(self, rows: str, row: int, elem_id: str) -> gr.Image:
        self.inputs[f"{rows}.{row}.image"] = gr.State("")
        return gr.Image(sources=["upload"], show_label=False, height=130, buttons=[], elem_id=elem_id)

    # Wiring

    def _wire(self, tab: gr.Tab) -> None:
        page, inputs, on = self.page, self.inputs, partial(self.page.on, notice=self.notice)
        on_picture = partial(self.page.on, notice=self.picture_notice)
        menus = [inputs[f"loras.{row}.lora"] for row in range(LORA_ROWS)]
        stack = [*menus, *self.rows, *self.thumbnails, *self.removes, *self.tunings, self.hint]
        chosen = {f"lora_{row}": menu for row, menu in enumerate(menus)}
        rows = [self.shown, *self.layouts, *self.controls, *self.layout_notices, self.add_layout]
        rows += [inputs[f"controls.{row}.{name}"] for row in range(LAYOUT_ROWS) for name in form.FORMS[ControlUse]]
        everything = list(dict.fromkeys([*inputs.values(), self.random, self.style, *rows, *stack]))
        style_hash = inputs["styles.0.image"]
        viewer = [self.viewer, self.actions, self.details, self.download, self.picture]
        listed = [self.history, self.more]
        started = [*self.watch.outputs, *viewer, self.batch, inputs["seed"], self.last]

        on([page.app.load, tab.select], self.list_loras, inputs=chosen, outputs=stack)
        on([menu.input for menu in menus], self.show_stack, inputs=chosen, outputs=stack)
        on(page.app.load, self.reload, inputs={"last": self.last, "base": page.base}, outputs=everything)
        on_lora, on_where, on_style = (
            partial(page.on, notice=notice) for notice in (self.lora_notice, self.where_notice, self.style_notice)
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
        layouts = {
            f"{name}_{row}": inputs[f"controls.{row}.{name}"]
            for row in range(LAYOUT_ROWS)
            for name in ("kind", "image")
        }
        shown = {"shown": self.shown}
        on_where(page.new_map.change, self.take_map, inputs={"handed": page.new_map, **shown, **layouts}, outputs=rows)
        on_where(self.compositions.select, self.take_composition, inputs=shown, outputs=rows)
        on_where(self.add_layout.click, self.show_another, inputs=shown, outputs=rows)
        for row, control in enumerate(self.controls):
            use = {name: inputs[f"controls.{row}.{name}"] for name in ("kind", "image", "detected", "strength")}
            on_where(self.frees[row].click, partial(self.remove_layout, row), inputs=shown, outputs=rows)
            on_control = partial(page.on, notice=self.layout_notices[row])
            on_control(
                control.upload,
                partial(self.take_control, row),
                inputs={"file": control, "image": use["image"], "kind": use["kind"]},
                outputs=rows,
                **AS_UPLOADED,
            )
            on_control(control.clear, partial(self.clear_layout, row), outputs=[use["image"]])
            page.on(
                [page.app.load, page.base.change, *(component.change for component in use.values())],
                partial(self.describe_layout, row),
                inputs={"base": page.base, "width": inputs["width"], "height": inputs["height"], **use},
                outputs=[use["kind"]],
                notice=self.notes[row],
                trigger_mode="always_last",
            )
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
        return f'<span class="frame"><img src="{url(self.studio.thumbnail(record.samples[0], 96))}" alt=""></span>'

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

    def take_map(self, *, handed: dict[str, Any], shown: list[int], **layouts: str) -> dict[Any, Any]:
        """Put a map on the row of its kind, else on a free one, else on one more."""
        kind = handed["kind"]
        filled = [row for row in shown if layouts[f"image_{row}"]]
        same = [row for row in filled if layouts[f"kind_{row}"] == kind]
        fitting = [*same, *(row for row in shown if row not in filled)]
        row = (fitting or self._another(shown))[0]
        return {
            **self._show_rows([*shown, row]),
            **self._layout(row, handed["image"], detected=True),
            self.inputs[f"controls.{row}.kind"]: kind,
        }

    def take_composition(self, event: gr.EventData, *, shown: list[int]) -> dict[Any, Any]:
        """Put a sample on the row that was opened last: the one in hand."""
        return self._layout(shown[-1], self._keep_sample(self.studio.samples().compositions, event.id), detected=False)

    def take_control(self, row: int, *, file: dict[str, Any], image: str, kind: str) -> dict[Any, Any]:
        """A photo, or a ready-made map, which is known for what it is."""
        try:
            image = self.studio.keep_image(Path(file["path"]))
        except BadImage as error:
            return {self.layout_notices[row]: sentence(str(error), "bad"), self.controls[row]: self._shown(image)}
        found = self.studio.map_kind(image, kind)
        use = f"controls.{row}"
        updates = {self.inputs[f"{use}.image"]: image, self.inputs[f"{use}.detected"]: bool(found)}
        if found:
            said = f"This is a ready-made map: {self.kinds[found].title.lower()}. It is used as it is."
            updates |= {self.inputs[f"{use}.kind"]: found, self.layout_notices[row]: sentence(said)}
        return updates

    def clear_layout(self, row: int) -> dict[Any, Any]:
        return {self.inputs[f"controls.{row}.image"]: ""}

    def show_another(self, *, shown: list[int]) -> dict[Any, Any]:
        return self._show_rows([*shown, self._another(shown)[0]])

    def _another(self, shown: list[int]) -> list[int]:
        """The rows that are not shown. Raises: BadSettings when there is none."""
        hidden = [row for row in range(LAYOUT_ROWS) if row not in shown]
        if not hidden:
            raise BadSettings(f"There are {LAYOUT_ROWS} layouts already.", "Take one away first.")
        return hidden

    def remove_layout(self, row: int, *, shown: list[int]) -> dict[Any, Any]:
        """Free the row and hide it, unless it is the only one; its settings are those of a new one again."""
        defaults = form.spread(
            GenerateSettings(prompt="-"), [f"controls.{row}.{name}" for name in form.FORMS[ControlUse]]
        )
        return {
            **self._show_rows([other for other in shown if other != row] or [row]),
            **{self.inputs[name]: value for name, value in defaults.items()},
            **self._layout(row, "", detected=False),
            self.inputs[f"controls.{row}.kind"]: next(iter(self.kinds)),
        }

    def _show_rows(self, shown: list[int]) -> dict[Any, Any]:
        shown = list(dict.fromkeys(shown))
        return {
            self.shown: shown,
            self.add_layout: gr.Button(interactive=len(shown) < LAYOUT_ROWS),
            **{box: gr.Column(visible=row in shown) for row, box in enumerate(self.layouts)},
        }

    def _layout(self, row: int, image: str, *, detected: bool) -> dict[Any, Any]:
        return {
            self.inputs[f"controls.{row}.image"]: image,
            self.controls[row]: self._shown(image),
            self.inputs[f"controls.{row}.detected"]: detected,
            self.layout_notices[row]: "",
        }

    def describe_layout(
        self, row: int, *, base: str, width: int, height: int, kind: str, image: str, detected: bool, strength: float
    ) -> dict[Any, Any]:
        """Say below the row what stands in its way, and beside each kind when the base cannot follow it."""
        reasons = {k: self.studio.why_not_control(k.name, base) for k in self.kinds.values()}
        choices = [(f"{k.title} (not with this base)" if reason else k.title, k.name) for k, reason in reasons.items()]
        said: list[str] = []
        if unfit := reasons[self.kinds[kind]]:
            said.append(f"{unfit} Choose another kind, or another base at the top.")
        if strength == 0:
            said.append("At strength 0 this layout does nothing.")
        if image and detected and width and height:  # a number box may be empty for a moment
            said += self.studio.map_remarks(image, kind, width, height)
        return {
            self.inputs[f"controls.{row}.kind"]: gr.Dropdown(choices),
            self.notes[row]: listing(("warn", text) for text in said),
        }

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
            missing.append("It has more looks than fit on the page: the first is back.")
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
            **{control: self._shown(values[f"controls.{row}.image"]) for row, control in enumerate(self.controls)},
            **dict.fromkeys(self.layout_notices, ""),
            **self._show_rows(list(range(max(1, len(settings.controls))))),
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
