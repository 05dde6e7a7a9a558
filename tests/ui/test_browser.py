"""A first visit, from photos to a picture that stands on all three legs, in a real browser.

It leaves screenshots of every tab in `screenshots/`, on a desktop and on a phone, in light and dark.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
DESKTOP, PHONE = (1280, 900), (390, 844)
TABS = ("photos", "captions", "train", "layout", "generate", "consistency")
PICTURES = ("#layout-picture-0", "#look-picture-0")
BAD_PHOTOS = ("notes.png", "letter.docx")
PATIENCE_MS = 120_000  # for trainings and models; what a person sees at once is awaited with it too

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("There is no Chromium here: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[OpenPage]:
    """Opens the page as a new visitor; afterwards, nothing may have gone wrong in it."""
    errors: list[str] = []
    visits: list[BrowserContext] = []

    def open_page(size: tuple[int, int], theme: str = "light") -> Page:
        visits.append(browser.new_context(viewport={"width": size[0], "height": size[1]}))
        page = visits[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}?__theme={theme}")
        expect(page.locator("#sample-subjects .card")).not_to_have_count(0)
        return page

    yield open_page
    for visit in visits:
        visit.close()
    assert errors == []


def open_tab(page: Page, tab: str) -> None:
    page.click(f"#tab-{tab}-button")
    expect(page.locator(f"#tab-{tab} .headline")).to_be_visible()


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def fill(page: Page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).locator("visible=true").first.fill(value)


def drag_the_square(page: Page) -> None:
    """By its corner, half way to the middle: the square is kept when the editor is opened again."""
    square, size = page.locator("#crop-view .square"), page.locator("#crop-size input[type=number]")
    square.locator("[data-corner=se]").hover()  # waits until the editor has stopped scrolling into view
    box = square.bounding_box()
    assert box is not None
    before = float(size.input_value())
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"], steps=4)
    page.mouse.up()
    expect(size).not_to_have_value(f"{before:g}")
    dragged = size.input_value()
    assert 0.7 * before < float(dragged) < 0.85 * before
    page.click("#crop-editor button:has-text('Done')")
    expect(square).to_have_count(0)
    page.click("#photo-grid .card >> nth=2")
    expect(size).to_have_value(dragged)


def test_from_photos_to_a_picture(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(DESKTOP)

    page.click("#sample-subjects .card:has-text('Teddy bear')")
    expect(page.locator("#photo-grid .card")).to_have_count(16)
    expect(page.locator("#advice")).to_contain_text("16 photos")
    shoot(page, "1-photos")
    page.click("#photo-grid .card >> nth=2")
    drag_the_square(page)

    page.click("text=Caption 16 photos")
    first = page.locator("#captions textarea").first
    first.fill("a toy on a table")
    first.blur()
    expect(page.locator("#captions")).to_contain_text("without “sks”")
    first.fill("sks teddy bear on a table")
    first.blur()
    expect(page.locator("#captions")).not_to_contain_text("without “sks”")
    shoot(page, "2-captions")

    page.click("text=Train on 16 photos")
    expect(page.locator("#lora-name textarea")).to_have_value("Teddy bear")
    page.click("#train-expert button:has-text('Expert')")
    for label, value in (("Steps", "4"), ("Resolution", "64"), ("Rank", "2"), ("Samples every", "2")):
        fill(page, label, value)
    page.click("#start-training")
    expect(page.locator("#train-stop")).to_be_visible()
    page.reload()  # the training goes on without the page, and the page finds it again
    open_tab(page, "train")
    expect(page.locator("#use-lora")).to_be_visible()
    expect(page.locator("#loss canvas, #loss svg").first).to_be_visible()
    expect(page.locator("#samples .card")).not_to_have_count(0)
    shoot(page, "3-train")
    page.click("#use-lora")
    expect(page.locator("#trigger-hint")).to_contain_text("sks teddy bear")
    expect(page.locator("#prompt textarea")).to_have_value("a photo of sks teddy bear")

    open_tab(page, "layout")
    page.click("#compositions .card >> nth=0")
    expect(page.locator("#map img")).to_be_visible()
    shoot(page, "4-layout")
    page.click("text=Use this layout")
    expect(page.locator("#layout-picture-0 img")).to_be_visible()
    page.click("#add-layout")
    expect(page.locator("#layout-1")).to_be_visible()
    page.click("#remove-layout-1")
    expect(page.locator("#layout-1")).to_be_hidden()

    page.click("#sample-looks .card >> nth=0")
    expect(page.locator("#look-picture-0 img")).to_be_visible()
    fill(page, "Steps", "3")
    page.click("#go")
    expect(page.locator("#details")).to_contain_text("3 steps")
    expect(page.locator("#viewer img")).to_be_visible()
    expect(page.locator("#history .card")).to_have_count(1)
    shoot(page, "5-generate")

    with page.expect_download() as download:
        page.click("#download")
    picture = tmp_path / "picture.png"
    download.value.save_as(picture)
    with Image.open(picture) as png:
        settings = json.loads(png.text["tripod"])["settings"]  # type: ignore[attr-defined]
    assert [len(settings[leg]) for leg in ("loras", "controls", "styles")] == [1, 1, 1]

    page.fill("#prompt textarea", "something else")
    page.fill("#steps input", "9")
    for given in PICTURES:
        page.click(f"{given} button[aria-label='Remove Image']")
        expect(page.locator(f"{given} img")).to_have_count(0)
    page.set_input_files("#restore input[type=file]", picture)
    expect(page.locator("#prompt textarea")).to_have_value("a photo of sks teddy bear")
    expect(page.locator("#steps input")).to_have_value("3")
    for given in PICTURES:
        expect(page.locator(f"{given} img")).to_be_visible()
    expect(page.locator("#lora-0 input")).to_have_value("Teddy bear")
    page.click("#go")
    expect(page.locator("#history .card")).to_have_count(2)
    shown = page.locator("#viewer img").evaluate("image => image.src")
    assert page.request.get(shown).body() == picture.read_bytes()
    small = page.locator("#history img").first.evaluate("image => image.src")
    assert small.endswith(".webp")

    page.reload()  # the browser remembers what was asked last
    open_tab(page, "generate")
    expect(page.locator("#prompt textarea")).to_have_value("a photo of sks teddy bear")
    for given in PICTURES:
        expect(page.locator(f"{given} img")).to_be_visible()
    expect(page.locator("#lora-0 input")).to_have_value("Teddy bear")

    page.click("#remove-0")
    expect(page.locator("#lora-0 input")).to_have_value("None")
    expect(page.locator("#remove-0")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_every_tab_without_scrolling_sideways(open_page: OpenPage, theme: str) -> None:
    page = open_page(PHONE, theme)
    for tab in TABS:
        open_tab(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
        shoot(page, f"phone-{theme}-{tab}")


def test_what_goes_wrong_is_said_beside_it(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(DESKTOP, "dark")
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    (tmp_path / "letter.docx").write_text("Dear reader")
    Image.new("RGB", (300, 300), "red").save(tmp_path / "good.png")
    page.set_input_files("#photo-drop input[type=file]", [text, tmp_path / "good.png", tmp_path / "letter.docx"])
    expect(page.locator("#photos-notice [role=alert]")).to_have_text(
        [f"{name} is not a picture that can be read. Use JPEG, PNG, WebP, HEIC, AVIF or TIFF." for name in BAD_PHOTOS]
    )
    expect(page.locator("#photo-grid .card")).to_have_count(1)
    open_tab(page, "generate")
    page.set_input_files("#look-picture-0 input[type=file]", text)
    expect(page.locator("#look-notice-0 [role=alert]")).to_contain_text("notes.png is not a picture")
    expect(page.locator("#look-picture-0 img")).to_have_count(0)
    page.click("#go")
    expect(page.locator("#generate-notice [role=alert]")).to_have_text(
        "The prompt is empty. Say what the picture should show."
    )
    page.set_input_files("#restore input[type=file]", text)
    expect(page.locator("#picture-notice [role=alert]")).to_contain_text("notes.png")
    shoot(page, "dark-generate")


def test_what_the_base_cannot_follow_is_greyed_with_its_reason(
    open_page: OpenPage, starter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edges_only = tmp_path / "starter"
    shutil.copytree(starter, edges_only, ignore=shutil.ignore_patterns("controlnet-openpose"))
    monkeypatch.setenv("TRIPOD_STARTER", str(edges_only))
    page = open_page(DESKTOP)
    open_tab(page, "layout")
    pose = page.locator("#control-kinds .card:has-text('Pose')")
    expect(pose).to_have_attribute("aria-disabled", "true")
    expect(pose).to_contain_text("Starter has no ControlNet for pose yet.")
    page.click("#base input")
    page.click("[role=option]:has-text('Stable Diffusion 1.5')")
    expect(pose).to_have_attribute("aria-disabled", "false")
    open_tab(page, "generate")
    page.click("#control-kind-0 input")
    page.click("[role=option]:has-text('Pose')")
    page.click("#base input")
    page.click("[role=option]:has-text('Starter')")
    expect(page.locator("#control-notes-0")).to_contain_text("Starter has no ControlNet for pose yet.")


def pull(page: Page, target: Locator, dx: float, dy: float) -> None:
    """Drag from the middle of an element."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=6)
    page.mouse.up()


def test_maps_are_drawn_and_given_back_to_their_row(open_page: OpenPage) -> None:
    page = open_page(DESKTOP)
    open_tab(page, "layout")
    page.click("#draw-map")
    canvas = page.locator("#brush canvas")
    expect(page.locator("#brush [data-tool='pen'][aria-pressed='true']")).to_be_visible()
    colours = """canvas => {
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [...new Set(new Uint32Array(pixels.buffer))].length;
    }"""
    assert canvas.evaluate(colours) == 1
    pull(page, canvas, 60, 30)
    assert canvas.evaluate(colours) == 2  # without any mixed ones
    pull(page, canvas, -60, 30)
    page.click("#brush [data-do='undo']")
    page.click("#brush [data-do='undo']")
    assert canvas.evaluate(colours) == 1
    expect(page.locator("#brush [data-do='undo']")).to_be_disabled()
    pull(page, canvas, 60, 30)
    page.click("#brush [data-do='done']")
    expect(page.locator("#map img")).to_be_visible()
    page.click("#use-map")
    expect(page.locator("#layout-picture-0 img")).to_be_visible()
    before = page.locator("#layout-picture-0 img").evaluate("image => image.src")

    page.click("#edit-layout-0")
    expect(page.locator("#brush [data-tool='pen'][aria-pressed='true']")).to_be_visible()
    pull(page, canvas, -60, -30)
    page.click("#brush [data-do='done']")
    expect(page.locator("#map img")).to_be_visible()
    page.click("#use-map")
    expect(page.locator("#layout-picture-0 img")).not_to_have_attribute("src", before)
    expect(page.locator("#layout-1")).to_be_hidden()


def test_joints_are_dragged(open_page: OpenPage) -> None:
    page = open_page(PHONE)
    open_tab(page, "layout")
    page.click("#control-kinds .card:has-text('Pose')")
    page.click("#draw-map")
    joints = page.locator("#pose circle")
    expect(joints).to_have_count(18)
    wrist = page.locator("#pose circle[data-joint='4']")
    x = float(wrist.get_attribute("cx") or 0)
    pull(page, wrist, -20, -40)
    assert float(wrist.get_attribute("cx") or 0) < x
    page.click("#pose [data-do='joint']")
    expect(joints).to_have_count(17)
    page.select_option("#pose [name='missing']", label="right wrist")
    expect(joints).to_have_count(18)
    page.click("#pose [data-do='another']")
    expect(joints).to_have_count(36)
    page.click("#pose [data-do='undo']")
    expect(joints).to_have_count(18)
    shoot(page, "phone-pose")
    page.click("#pose [data-do='done']")
    expect(page.locator("#map img")).to_be_visible()
    page.click("#edit-map")
    expect(joints).to_have_count(18)


def test_a_part_of_a_picture_is_painted_over(open_page: OpenPage, tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    page = open_page(DESKTOP)
    open_tab(page, "generate")
    page.fill("#prompt textarea", "a blue mug")
    fill(page, "Steps", "3")
    page.click("#start button:has-text('Start from a picture')")
    page.set_input_files("#start-picture input[type=file]", tmp_path / "red.png")
    page.click("#paint")
    done = page.locator("#mask-brush [data-do='done']")
    done.click()
    expect(page.locator("#start-notice [role=alert]")).to_contain_text("The mask is empty.")
    pull(page, page.locator("#mask-brush canvas"), 40, 20)
    done.click()
    expect(page.locator("#start-mask .mask")).to_be_visible()
    shoot(page, "start")
    page.click("#go")
    expect(page.locator("#details")).to_contain_text("part of a picture 0.6")
    with page.expect_download() as download:
        page.click("#download")
    picture = tmp_path / "picture.png"
    download.value.save_as(picture)
    with Image.open(picture) as png:
        corners = [png.getpixel((x, y)) for x in (0, png.width - 1) for y in (0, png.height - 1)]
        middle = png.getpixel((png.width // 2, png.height // 2))
    assert corners == [(255, 0, 0)] * 4
    assert middle != (255, 0, 0)

    page.click("#start-picture button[aria-label='Remove Image']")
    expect(page.locator("#start-mask .mask")).to_have_count(0)
    page.set_input_files("#restore input[type=file]", picture)
    expect(page.locator("#start-mask .mask")).to_be_visible()
    page.click("#start-here")
    expect(page.locator("#start-mask .mask")).to_have_count(0)
    expect(page.locator("#start-picture img")).to_be_visible()
