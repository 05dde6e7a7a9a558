"""Whether a ControlNet was made for a base, told by the shapes of its tensors before any of them is loaded.

A ControlNet begins as a copy of the first half of its base (arXiv 2302.05543, section 3.1): what has the same name in
both has the same shape.
"""

from collections.abc import Mapping
from pathlib import Path

from engine.errors import BadModel

COPIED = (
    *("down_blocks.", "mid_block."),
    *("transformer_blocks.", "single_transformer_blocks."),
    *("layers.", "noise_refiner."),
)
COPY = "control_"
"""How Z-Image's ControlNets call the copies besides."""

Shape = tuple[int, ...]


def require_fitting(folder: Path, shapes: Mapping[str, Shape], layers: Mapping[str, Shape], title: str) -> None:
    """Raises: BadModel when a ControlNet was made for another base than the one that people call `title`.

    Args:
        folder: where the ControlNet is.
        shapes: those of its tensors, by name.
        layers: the shape of the weight of every layer of the base's denoiser, by name.
    """
    if why := misfit(shapes, layers):
        raise BadModel(
            f"The ControlNet in {folder.name} was not made for {title}: {why}.",
            "Put one there that was made for this base, or take the layout away.",
        )


def misfit(shapes: Mapping[str, Shape], layers: Mapping[str, Shape]) -> str:
    """What of a ControlNet's tensors is otherwise in a base, as a part of a sentence; empty when nothing is."""
    found = {name.removesuffix(".weight").removeprefix(COPY): _size(shape) for name, shape in shapes.items()}
    shared = [name for name in found if name in layers and name.startswith(COPIED)]
    for name in shared:
        if found[name] != (size := _size(layers[name])):
            return f"its {name} is {_in_words(found[name])}, where this base has {_in_words(size)}"
    return "" if shared else "none of its blocks is in this base"


def read_shapes(file: Path) -> dict[str, Shape]:
    """The shape of every tensor of a safetensors file, of which only the header is read. Raises: BadModel."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            names = list(opened.keys())
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise BadModel(f"{file.name} in {file.parent.name} is damaged.", "Download it again.") from error


def _size(shape: Shape) -> Shape:
    """A convolution of one pixel and a linear layer are the same."""
    return shape[:2] if shape[2:] in ((), (1, 1)) else shape


def _in_words(shape: Shape) -> str:
    return " × ".join(map(str, shape))
