"""The bases to choose from and the families they belong to. A new base is one entry here, a new family one file."""

from collections.abc import Callable, Iterator, Mapping

from engine.errors import NotFound
from engine.families import sd15, starter
from engine.families.base import Base, Components, Family, FamilySpec, IPAdapter

__all__ = ["BASES", "FAMILIES", "Base", "Components", "Family", "FamilySpec", "IPAdapter", "base", "family"]

_BASES: dict[str, Callable[[], Base]] = {"starter": starter.base, "sd15": sd15.base}

FAMILIES: dict[str, Family] = {sd15.SPEC.name: sd15.StableDiffusion15()}


class _Bases(Mapping[str, Base]):
    """Every look-up finds a base as it is now: its folder may have got a ControlNet since the last one."""

    def __getitem__(self, name: str) -> Base:
        return _BASES[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(_BASES)

    def __len__(self) -> int:
        return len(_BASES)


BASES: Mapping[str, Base] = _Bases()


def base(name: str) -> Base:
    """Raises: NotFound."""
    if name not in BASES:
        raise NotFound(f"There is no base called {name!r}.", f"Choose one of: {', '.join(BASES)}.")
    return BASES[name]


def family(name: str) -> Family:
    """The family that `Base.family` names."""
    return FAMILIES[name]
