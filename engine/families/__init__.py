"""The bases to choose from and the families they belong to. A new base is one entry here, a new family one file.

Beside those known by name, every model in the folder of TRIPOD_MODELS is a base.
"""

from collections.abc import Callable, Iterator, Mapping

from engine.errors import BadModel, NotFound
from engine.families import flux, flux2, qwen_image, sd3, sd15, sdxl, starter, z_image
from engine.families.base import Base, Family, FamilySpec
from engine.families.components import Components, Embeds, IPAdapter, guided
from engine.families.local import Found, find_models

__all__ = [
    "BASES",
    "FAMILIES",
    "Base",
    "Components",
    "Embeds",
    "Family",
    "FamilySpec",
    "IPAdapter",
    "base",
    "family",
    "guided",
    "refused_models",
]

_BASES: dict[str, Callable[[], Base]] = {
    "starter": starter.base,
    "sd15": sd15.base,
    "sdxl": sdxl.base,
    "sd35_medium": sd3.medium,
    "sd35_large": sd3.large,
    "flux_dev": flux.dev,
    "flux_krea": flux.krea,
    "flux_schnell": flux.schnell,
    "z_image_turbo": z_image.turbo,
    "z_image": z_image.base,
    "qwen_image": qwen_image.base,
    "flux2_klein": flux2.klein,
    "flux2_klein_base": flux2.klein_base,
}

_FAMILIES: tuple[Family, ...] = (
    *(sd15.FAMILY, sdxl.FAMILY, sd3.FAMILY, flux.FAMILY),
    *(z_image.FAMILY, qwen_image.FAMILY, flux2.FAMILY),
)
FAMILIES: dict[str, Family] = {family.spec.name: family for family in _FAMILIES}


class _Bases(Mapping[str, Base]):
    """Every look-up finds a base as it is now: its folder may have got a ControlNet since the last one."""

    def __getitem__(self, name: str) -> Base:
        return _BASES[name]() if name in _BASES else _found().bases[name]

    def __iter__(self) -> Iterator[str]:
        yield from _BASES
        yield from _found().bases

    def __len__(self) -> int:
        return len(_BASES) + len(_found().bases)


BASES: Mapping[str, Base] = _Bases()


def base(name: str) -> Base:
    """Raises: NotFound; BadModel when the model of that name is no base."""
    if name not in BASES:
        if refused := _found().refused.get(name):
            raise refused
        raise NotFound(f"There is no base called {name!r}.", f"Choose one of: {', '.join(BASES)}.")
    return BASES[name]


def family(name: str) -> Family:
    """The family that `Base.family` names."""
    return FAMILIES[name]


def refused_models() -> list[BadModel]:
    """What is wrong with the models in the folder of TRIPOD_MODELS that are no bases."""
    return list(_found().refused.values())


def _found() -> Found:
    published = (
        *(sd15.base(), sdxl.base(), sd3.medium(), sd3.large(), flux.dev(), flux.schnell()),
        *(z_image.turbo(), qwen_image.base(), flux2.klein(), flux2.klein_base()),
    )
    return find_models(published, taken=_BASES)
