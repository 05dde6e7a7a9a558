"""Control kinds: what decides where things go in a picture, and the detectors that take such maps from photos.

A new kind is one entry of `KINDS`, and each way to take its maps one row of it. Nothing here knows of ControlNets or
workspaces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from PIL import Image

from engine.cache import ModelCache
from engine.controls import edges, lines, networks, openpose, ready
from engine.controls.recognise import Recognised, recognise
from engine.errors import BadSettings, MissingModel

__all__ = ["KINDS", "ControlKind", "Detector", "Option", "Recognised", "detect", "recognise", "require_kind"]

EMBEDDED = "embedded"


@dataclass(frozen=True, kw_only=True)
class Option:
    """A number that a detector takes, as a slider from `low` to `high`."""

    name: str
    label: str
    low: float
    high: float
    default: float
    step: float


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One way to take a map: `source` is "embedded", or where its network is on the Hub; `quality` a few words on it.

    `take(image, models=..., **options)` gives the map. With a `part`, it is there only once that folder of
    `presets/detectors` is.
    """

    name: str
    title: str
    quality: str
    take: Callable[..., Image.Image]
    source: str = EMBEDDED
    part: str = ""

    @property
    def offline(self) -> bool:
        return self.source == EMBEDDED

    @property
    def offered(self) -> bool:
        return not self.part or (networks.embedded_folder(self.part) / "config.json").is_file()


@dataclass(frozen=True, kw_only=True)
class ControlKind:
    """`table` holds every detector, the usual one first; the options are those of all of them."""

    name: str
    title: str
    good_for: str
    table: tuple[Detector, ...]
    options: tuple[Option, ...] = ()

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """Those that can be chosen here."""
        return tuple(detector for detector in self.table if detector.offered)


def _alone(take: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
    """A detector that needs no models of the cache."""

    def taken(image: Image.Image, *, models: ModelCache, **options: float) -> Image.Image:
        return take(image, **options)

    return taken


def _starter(kind: str, take: Callable[..., Image.Image]) -> Detector:
    return Detector(name="starter", title="Starter", quality="starter quality", take=take, part=kind)


def _hub(name: str, title: str, quality: str, source: str, take: Callable[..., Image.Image], **how: bool) -> Detector:
    return Detector(name=name, title=title, quality=quality, take=partial(take, source, **how), source=source)


DEPTH_ANYTHING, ZOE = "depth-anything/Depth-Anything-V2-Small-hf", "Intel/zoedepth-nyu-kitti"
UPERNET, SEGFORMER = "openmmlab/upernet-convnext-tiny", "nvidia/segformer-b0-finetuned-ade-512-512"

KINDS = {
    kind.name: kind
    for kind in (
        ControlKind(
            name="canny",
            title="Edges",
            good_for="The exact outline of a product or a scene, with its lettering and fine detail.",
            table=(Detector(name="canny", title="Canny", quality="exact", take=_alone(edges.canny)),),
            options=(
                Option(name="low_threshold", label="Continue edges above", low=1, high=255, default=100, step=1),
                Option(name="high_threshold", label="Start edges above", low=1, high=255, default=200, step=1),
            ),
        ),
        ControlKind(
            name="openpose",
            title="Pose",
            good_for="How people stand, without their clothes, shape or face.",
            table=(
                Detector(
                    name="blazepose", title="BlazePose", quality="good, several people", take=_alone(openpose.detect)
                ),
            ),
            options=(
                Option(
                    name="min_confidence", label="Show joints seen at least", low=0.1, high=0.9, default=0.5, step=0.05
                ),
            ),
        ),
        ControlKind(
            name="depth",
            title="Depth",
            good_for="What is near and what is far: rooms, streets, a product's place in the scene.",
            table=(
                _starter("depth", networks.embedded_depth),
                _hub("depth_anything", "Depth Anything V2", "best, 99 MB", DEPTH_ANYTHING, networks.hub_depth),
                _hub("zoedepth", "ZoeDepth", "good indoors, 1.4 GB", ZOE, networks.hub_depth, metric=True),
            ),
        ),
        ControlKind(
            name="normal",
            title="Surfaces",
            good_for="How every surface is turned, as a normal map: the relief of a product, a face or a sculpture.",
            table=(
                _starter("normal", networks.embedded_normal),
                _hub("from_depth", "From Depth Anything V2", "good, 99 MB", DEPTH_ANYTHING, networks.hub_normal),
            ),
        ),
        ControlKind(
            name="segmentation",
            title="Areas",
            good_for="Which part is sky, wall, table or person, as a segmentation without any detail.",
            table=(
                _starter("segmentation", networks.embedded_segmentation),
                _hub("upernet", "UperNet", "best, 241 MB", UPERNET, networks.hub_segmentation),
                _hub(
                    "segformer", "SegFormer B0", "quick, 15 MB, no commercial use", SEGFORMER, networks.hub_segmentation
                ),
            ),
        ),
        ControlKind(
            name="softedge",
            title="Soft edges",
            good_for="Shapes with some freedom: faces, animals, plants and cloth that may change their surface.",
            table=(
                Detector(name="gradient", title="Gradient", quality="starter quality", take=_alone(edges.soft_edges)),
            ),
            options=(Option(name="softness", label="Softness", low=0.5, high=5, default=1.5, step=0.25),),
        ),
        ControlKind(
            name="lines",
            title="Straight lines",
            good_for="Buildings, rooms, shelves and boxes: only what is straight is kept.",
            table=(Detector(name="mlsd", title="M-LSD tiny", quality="good", take=_alone(lines.detect)),),
            options=(
                Option(name="min_score", label="Show lines as sure as", low=0.02, high=0.9, default=0.1, step=0.02),
                Option(
                    name="min_length", label="Show lines as long as, px of 512", low=0, high=200, default=20, step=5
                ),
            ),
        ),
        ControlKind(
            name="scribble",
            title="Scribble",
            good_for="A rough idea of the shapes; draw your own, or take the main outlines of a photo.",
            table=(
                Detector(name="outlines", title="Outlines", quality="starter quality", take=_alone(edges.scribble)),
            ),
            options=(
                Option(name="width", label="Width of the pen, px of 512", low=1, high=15, default=5, step=1),
                Option(name="detail", label="Detail", low=0, high=1, default=0.5, step=0.1),
            ),
        ),
        ControlKind(
            name="lineart",
            title="Line art",
            good_for="Drawings, comics and logos: what an ink pen would draw.",
            table=(Detector(name="standard", title="Standard", quality="good", take=_alone(edges.line_art)),),
            options=(Option(name="width", label="Width of a line, px of 512", low=1, high=15, default=6, step=0.5),),
        ),
    )
}


def detect(
    kind: str,
    image: Image.Image,
    options: Mapping[str, float] | None = None,
    *,
    detector: str | None = None,
    models: ModelCache | None = None,
) -> Image.Image:
    """The control map of `image`: RGB, of the same size.

    Args:
        detector: the name of one of the kind's; without it, the usual one.
        models: where networks stay for the next call; without it they are loaded for this one.

    Raises: BadSettings for a kind, option or detector that does not exist, NothingDetected when the map would be empty,
        MissingModel when the detector's network is neither here nor within reach.
    """
    if kind not in KINDS:
        raise BadSettings(f"Maps of the kind {kind!r} cannot be taken here.", f"Choose one of: {', '.join(KINDS)}.")
    offered = {one.name: one for one in KINDS[kind].detectors}
    if detector is not None and detector not in offered:
        raise BadSettings(f"There is no detector {detector!r} for {kind}.", f"Choose one of: {', '.join(offered)}.")
    chosen = offered[detector] if detector else next(iter(offered.values()))
    values = _checked_options(KINDS[kind], options or {})
    try:
        return chosen.take(image.convert("RGB"), models=models or ModelCache(), **values)
    except MissingModel as error:
        raise MissingModel(error.problem, _without_hub(KINDS[kind])) from error


def require_kind(kind: str, image: Image.Image) -> None:
    """Raises: BadImage when a picture that is to serve as a map is plainly one of another kind."""
    ready.require_kind(kind, image, {name: k.title for name, k in KINDS.items()})


def _without_hub(kind: ControlKind) -> str:
    offline = [detector.title for detector in kind.detectors if detector.offline]
    instead = f"choose the detector {offline[0]}" if offline else f"give a ready-made {kind.title.lower()} map"
    return f"Connect to the internet once to fetch it, or {instead}: that works offline."


def _checked_options(kind: ControlKind, given: Mapping[str, float]) -> dict[str, float]:
    known = {option.name: option for option in kind.options}
    for name, value in given.items():
        if name not in known:
            raise BadSettings(f"{kind.title} has no option {name!r}.", f"Choose one of: {', '.join(known)}.")
        option = known[name]
        if not option.low <= value <= option.high:
            raise BadSettings(
                f"{option.label!r} is {value:g}.", f"Choose a value from {option.low:g} to {option.high:g}."
            )
    return {name: given.get(name, option.default) for name, option in known.items()}
