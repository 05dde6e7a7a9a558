"""The square of a photo, dragged and resized on the photo itself with mouse or finger.

The part shows the whole photo with the square on it, and beside it the square as it will be trained; both follow the
pointer. Its `release` event carries the square as shares of the photo's width. Sets and storage are not known here.
"""

from functools import partial

from engine.settings import CropBox
from engine.workspace import Photo
from ui.cards import Plain, Window

SMALLEST = 0.1  # of the photo's shorter side

# The listeners are on the part: the photo inside is replaced whenever the value changes.
DRAG = """
const find = selector => element.querySelector(selector);
let held = null;
element.addEventListener('pointerdown', event => {
    if (!event.target.closest('.square')) return;
    const photo = find('.crop').getBoundingClientRect(), square = find('.square').getBoundingClientRect();
    held = {
        corner: event.target.dataset.corner, x: event.clientX, y: event.clientY,
        width: photo.width, height: photo.height,
        left: square.left - photo.left, top: square.top - photo.top, side: square.width,
    };
    element.setPointerCapture(event.pointerId);
    event.preventDefault();
});
const within = (value, low, high) => Math.min(Math.max(value, low), high);
element.addEventListener('pointermove', event => {
    if (!held) return;
    const {corner, width, height} = held, dx = event.clientX - held.x, dy = event.clientY - held.y;
    let {left, top, side} = held;
    if (corner) {
        const toRight = corner.includes('e'), toBottom = corner.includes('s');
        const room = Math.min(toRight ? width - left : left + side, toBottom ? height - top : top + side);
        const grown = side + Math.max(toRight ? dx : -dx, toBottom ? dy : -dy);
        side = within(grown, SMALLEST * Math.min(width, height), room);
        if (!toRight) left += held.side - side;
        if (!toBottom) top += held.side - side;
    } else {
        left = within(left + dx, 0, width - side);
        top = within(top + dy, 0, height - side);
    }
    held.now = {left: left / width, top: top / width, side: side / width};
    Object.assign(find('.square').style, {left: 100 * left / width + '%', top: 100 * top / height + '%',
        width: 100 * side / width + '%', height: 100 * side / height + '%'});
    Object.assign(find('.seen img').style, {left: -100 * left / side + '%', top: -100 * top / side + '%',
        width: 100 * width / side + '%'});
});
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => {
    if (held?.now) trigger('release', held.now);
    held = null;
});
""".replace("SMALLEST", str(SMALLEST))

CropView = partial(Plain, js_on_load=DRAG)


def crop_view(photo: Photo, image_url: str) -> str:
    """The HTML of the part. Everything but the square is dimmed."""
    crop = photo.crop or centre_square(photo)
    shares = {
        "left": crop.left_px / photo.width_px,
        "top": crop.top_px / photo.height_px,
        "width": crop.side_px / photo.width_px,
        "height": crop.side_px / photo.height_px,
    }
    style = ";".join(f"{name}:{100 * share:.2f}%" for name, share in shares.items())
    corners = "".join(f'<b data-corner="{corner}"></b>' for corner in ("nw", "ne", "sw", "se"))
    shape = f'width="{photo.width_px}" height="{photo.height_px}"'  # holds the place until the picture is there
    return (
        f'<div class="crop"><img src="{image_url}" {shape} alt="the whole photo" draggable="false">'
        f'<i class="square" style="{style}">{corners}</i></div>'
        f'<div class="seen"><span class="frame windowed"><img src="{image_url}" alt="" style="{window(photo).style}">'
        "</span><small>As it is trained</small></div>"
    )


def centre_square(photo: Photo) -> CropBox:
    side_px = min(photo.width_px, photo.height_px)
    return CropBox(left_px=(photo.width_px - side_px) // 2, top_px=(photo.height_px - side_px) // 2, side_px=side_px)


def window(photo: Photo) -> Window:
    """The crop of a photo, as the part that its card shows."""
    crop = photo.crop or centre_square(photo)
    return Window(left=crop.left_px / crop.side_px, top=crop.top_px / crop.side_px, width=photo.width_px / crop.side_px)


def dragged(photo: Photo, left: float, top: float, side: float) -> CropBox:
    """The square that was let go of, from shares of the photo's width; always inside the photo."""
    side_px = min(max(16, round(side * photo.width_px)), photo.width_px, photo.height_px)
    return CropBox(
        left_px=min(max(0, round(left * photo.width_px)), photo.width_px - side_px),
        top_px=min(max(0, round(top * photo.width_px)), photo.height_px - side_px),
        side_px=side_px,
    )


def sliders(photo: Photo) -> tuple[float, float, float]:
    """A crop as percentages: its side of the shorter side of the photo, and where it lies in the room that is left."""
    crop = photo.crop or centre_square(photo)
    room_x, room_y = photo.width_px - crop.side_px, photo.height_px - crop.side_px
    size = 100 * crop.side_px / min(photo.width_px, photo.height_px)
    return size, 100 * crop.left_px / max(1, room_x), 100 * crop.top_px / max(1, room_y)


def crop_box(photo: Photo, size: float, across: float, down: float) -> CropBox:
    """What `sliders` undoes, to the pixel."""
    side_px = max(16, round(min(photo.width_px, photo.height_px) * size / 100))
    return CropBox(
        left_px=round((photo.width_px - side_px) * across / 100),
        top_px=round((photo.height_px - side_px) * down / 100),
        side_px=side_px,
    )
