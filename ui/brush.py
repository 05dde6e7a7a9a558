"""A picture to draw on: pen, fill and eraser, each colour exactly the one that was chosen, over a photo to trace.

Its `release` event carries the drawing as a PNG, `submit` says that it is to be left as it was. What is drawn, and in
which colours, is given; maps and masks are not known here.
"""

import base64
import binascii
from collections.abc import Sequence
from functools import partial
from html import escape
from typing import NamedTuple

from engine.errors import BadImage
from ui.cards import Plain

MAX_PNG_MB = 40
UNDOS = 60
WIDTHS = (1, 120)  # of the pen, px of a picture whose shorter side is 512 px


class Ink(NamedTuple):
    """A colour to draw with, `#rrggbb`, and what it stands for."""

    name: str
    colour: str


# The listeners are on the part: what is inside is replaced whenever the value changes, and the picture's own load event
# starts a drawing. Strokes are stamps of whole pixels, as a canvas would mix colours at the border of its own lines.
# An undo puts back the rectangle that a stroke touched, of which `before` holds the pixels.
DRAW = """
const find = selector => element.querySelector(selector);
let canvas, context, before, original, undos = [], tool, ink, last = null, touched = null;

const sheet = (onto, start) => {
    Object.assign(onto, {width: start.naturalWidth, height: start.naturalHeight});
    const pen = onto.getContext('2d', {willReadFrequently: true});
    pen.drawImage(start, 0, 0);
    return pen;
};
element.addEventListener('load', event => {
    if (!event.target.matches('.start')) return;
    canvas = find('canvas');
    find('.paper').style.setProperty('--shape', event.target.naturalWidth / event.target.naturalHeight);
    context = sheet(canvas, event.target);
    before = sheet(document.createElement('canvas'), event.target);
    original = sheet(document.createElement('canvas'), event.target);
    undos = [];
    choose('pen');
    take(find('[data-ink]'));
    find('[data-do="undo"]').disabled = true;
}, true);
const choose = chosen => {
    tool = chosen;
    for (const one of element.querySelectorAll('[data-tool]'))
        one.setAttribute('aria-pressed', one.dataset.tool === tool);
};
const take = swatch => {
    ink = swatch.dataset.ink;
    for (const one of element.querySelectorAll('[data-ink]')) one.setAttribute('aria-pressed', one === swatch);
    find('.ink').textContent = swatch.title;
    if (tool === 'eraser') choose('pen');
};

const widthPx = () =>
    Math.max(1, Math.round(find('[name="width"]').value * Math.min(canvas.width, canvas.height) / 512));
const place = event => {
    const box = canvas.getBoundingClientRect();
    return {x: Math.floor((event.clientX - box.left) * canvas.width / box.width),
        y: Math.floor((event.clientY - box.top) * canvas.height / box.height)};
};
const touch = (left, top, right, bottom) => {
    touched ??= {left, top, right, bottom};
    touched = {left: Math.min(touched.left, left), top: Math.min(touched.top, top),
        right: Math.max(touched.right, right), bottom: Math.max(touched.bottom, bottom)};
};
const stamp = (x, y, width) => {
    const paper = tool === 'eraser' ? find('.brush').dataset.paper : ink;
    const left = x - (width >> 1), top = y - (width >> 1);
    context.fillStyle = paper;
    for (let row = 0; row < width; row++) {
        const chord = Math.max(1, Math.round(Math.sqrt(width * width - (2 * row + 1 - width) ** 2)));
        const span = [left + Math.round((width - chord) / 2), top + row, chord, 1];
        if (paper) context.fillRect(...span); else context.drawImage(original.canvas, ...span, ...span);
    }
    touch(left, top, left + width + 1, top + width);
};
const stroke = (from, to) => {
    const width = widthPx(), dx = to.x - from.x, dy = to.y - from.y;
    const steps = Math.ceil(Math.hypot(dx, dy) / Math.max(1, width / 10)) || 1;
    for (let i = 0; i <= steps; i++)
        stamp(Math.round(from.x + dx * i / steps), Math.round(from.y + dy * i / steps), width);
};
const fill = ({x, y}) => {
    const {width, height} = canvas, image = context.getImageData(0, 0, width, height);
    const pixels = new Uint32Array(image.data.buffer), old = pixels[y * width + x];
    const [red, green, blue] = ink.match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16));
    const fresh = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
    if (fresh === old) return;
    const waiting = [y * width + x];
    pixels[waiting[0]] = fresh;
    while (waiting.length) {
        const at = waiting.pop(), column = at % width;
        for (const [next, inside] of [[at - 1, column > 0], [at + 1, column < width - 1],
            [at - width, at >= width], [at + width, at < width * (height - 1)]])
            if (inside && pixels[next] === old) { pixels[next] = fresh; waiting.push(next); }
    }
    context.putImageData(image, 0, 0);
    touch(0, 0, width, height);
};
const finish = () => {
    if (!touched) return;
    const left = Math.max(0, touched.left), top = Math.max(0, touched.top);
    const width = Math.min(canvas.width, touched.right) - left, height = Math.min(canvas.height, touched.bottom) - top;
    touched = null;
    if (width <= 0 || height <= 0) return;
    undos.push({left, top, pixels: before.getImageData(left, top, width, height)});
    if (undos.length > UNDOS) undos.shift();
    before.drawImage(canvas, left, top, width, height, left, top, width, height);
    find('[data-do="undo"]').disabled = false;
};
const undo = () => {
    const one = undos.pop();
    if (!one) return;
    for (const pen of [context, before]) pen.putImageData(one.pixels, one.left, one.top);
    find('[data-do="undo"]').disabled = !undos.length;
};
const ring = event => {
    const box = canvas.getBoundingClientRect(), side = widthPx() * box.width / canvas.width;
    const shown = event && tool !== 'fill' && (last || event.target === canvas);
    Object.assign(find('.ring').style, {display: shown ? 'block' : 'none'}, shown && {
        width: side + 'px', height: side + 'px',
        left: event.clientX - box.left - side / 2 + 'px', top: event.clientY - box.top - side / 2 + 'px'});
};

element.addEventListener('pointerdown', event => {
    if (event.target !== canvas || event.button) return;
    event.preventDefault();
    canvas.focus({preventScroll: true});
    const at = place(event);
    if (tool === 'fill') { fill(at); finish(); return; }
    element.setPointerCapture(event.pointerId);
    last = at;
    stroke(at, at);
});
element.addEventListener('pointermove', event => {
    if (!canvas?.isConnected) return;
    if (last) for (const one of event.getCoalescedEvents()) { const at = place(one); stroke(last, at); last = at; }
    ring(event);
});
element.addEventListener('pointerleave', () => { if (canvas?.isConnected) ring(null); });
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => { last = null; finish(); });
element.addEventListener('click', event => {
    const {tool: chosen, ink: taken, do: asked} = event.target.closest('button')?.dataset ?? {};
    if (chosen) choose(chosen);
    if (taken) take(event.target.closest('button'));
    if (asked === 'undo') undo();
    if (asked === 'done') trigger('release', {png: canvas.toDataURL('image/png').split(',')[1]});
    if (asked === 'cancel') trigger('submit');
});
element.addEventListener('input', event => {
    if (event.target.name === 'seen') canvas.style.opacity = 1 - event.target.value / 100;
});
element.addEventListener('change', event => {
    if (event.target.name !== 'more') return;
    const swatch = find('[data-ink].other'), chosen = event.target.selectedOptions[0];
    Object.assign(swatch, {hidden: false, title: chosen.text});
    swatch.dataset.ink = swatch.style.background = chosen.value;
    take(swatch);
});
element.addEventListener('keydown', event => {
    if ((event.ctrlKey || event.metaKey) && event.key === 'z') { event.preventDefault(); undo(); }
});
""".replace("UNDOS", str(UNDOS))

Brush = partial(Plain, js_on_load=DRAW)


def brush_view(
    start_url: str,
    inks: Sequence[Ink],
    *,
    more: Sequence[Ink] = (),
    paper: str = "",
    width: int = 5,
    photo_url: str = "",
    seen: int = 0,
) -> str:
    """The HTML of the part.

    Args:
        start_url: the picture that is drawn on.
        inks: the colours on hand, the first of them chosen; `more` are in a menu beside them.
        paper: what the eraser leaves; without it, it brings back the picture that was there.
        photo_url: what lies below the drawing, to be traced or marked, of which `seen` percent show through at first.
    """
    several = len(inks) + len(more) > 1
    tools = [("pen", "Pen"), *([("fill", "Fill")] if several else []), ("eraser", "Eraser" if paper else "Restore")]
    buttons = "".join(f'<button type="button" data-tool="{name}">{title}</button>' for name, title in tools)
    photo = f'<img class="below" src="{photo_url}" alt="" draggable="false">' if photo_url else ""
    slider = f'<input type="range" name="seen" min="0" max="100" value="{seen}">'
    see = f"<label>See the photo {slider}</label>" if photo else ""
    low, high = WIDTHS
    return (
        f'<div class="brush" data-paper="{paper}"><div class="tools"><span class="choice">{buttons}</span>'
        f'<label>Width <input type="range" name="width" min="{low}" max="{high}" value="{width}"></label>{see}'
        '<button type="button" data-do="undo" disabled>Undo</button></div>'
        f'<div class="inks"{"" if several else " hidden"}>{"".join(map(_swatch, inks))}'
        f'<button type="button" data-ink="#000000" class="other" hidden></button>{_menu(more)}<b class="ink"></b></div>'
        f'<div class="paper">{photo}<canvas tabindex="0" aria-label="Draw here" '
        f'style="opacity:{1 - seen / 100}"></canvas><i class="ring"></i>'
        f'<img class="start" src="{start_url}" alt="" hidden></div>'
        '<div class="tools end"><button type="button" data-do="cancel">Cancel</button>'
        '<button type="button" class="main" data-do="done">Done</button></div></div>'
    )


def _swatch(ink: Ink) -> str:
    name = escape(ink.name)
    style = f"background:{ink.colour}"
    return f'<button type="button" data-ink="{ink.colour}" style="{style}" title="{name}" aria-label="{name}"></button>'


def _menu(inks: Sequence[Ink]) -> str:
    options = "".join(f'<option value="{ink.colour}">{escape(ink.name)}</option>' for ink in inks)
    first = "<option selected disabled>More …</option>"
    return f'<select name="more" aria-label="More">{first}{options}</select>' if inks else ""


def drawing(png: object) -> bytes:
    """The PNG that a `release` event carries. Raises: BadImage."""
    if not isinstance(png, str) or len(png) > MAX_PNG_MB * 4 / 3 * 1e6:
        raise BadImage("The drawing did not arrive whole.", f"Use a picture of at most {MAX_PNG_MB} MB.")
    try:
        return base64.b64decode(png, validate=True)
    except binascii.Error:
        raise BadImage("The drawing did not arrive whole.", "Press Done again.") from None
