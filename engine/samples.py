"""What ships to try things with: sample subjects to teach, compositions to follow, looks to borrow.

It reads `presets/samples` and knows nothing of workspaces.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from engine.errors import NotFound

SAMPLES_FOLDER = Path(__file__).parent.parent / "presets" / "samples"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Photos of one thing or person, with the trigger word and class that its captions use.

    `photos` are for training; `held_out` photos only ever serve to score a LoRA. Captions lie beside photos as `.txt`.
    """

    name: str
    title: str
    trigger: str
    class_name: str
    goal: str
    photos: tuple[Path, ...]
    held_out: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class SamplePicture:
    """A composition or a look: its file and what it is."""

    name: str
    title: str
    file: Path


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Everything in `presets/samples`."""

    subjects: tuple[Subject, ...]
    compositions: tuple[SamplePicture, ...]
    looks: tuple[SamplePicture, ...]

    def subject(self, name: str) -> Subject:
        """Raises: NotFound."""
        for subject in self.subjects:
            if subject.name == name:
                return subject
        known = ", ".join(subject.name for subject in self.subjects)
        raise NotFound(f"There is no sample subject called {name!r}.", f"Choose one of: {known}.")


def load_samples(folder: Path = SAMPLES_FOLDER) -> Samples:
    """Read `samples.json`, whose paths are relative to `folder`."""
    listing = json.loads((folder / "samples.json").read_text())

    def pictures(key: str) -> tuple[SamplePicture, ...]:
        return tuple(SamplePicture(name=e["name"], title=e["title"], file=folder / e["file"]) for e in listing[key])

    subjects = []
    for entry in listing["subjects"]:
        files = sorted((folder / entry["folder"]).glob("*.png"))
        held_out = tuple(file for file in files if file.stem in entry["held_out"])
        subjects.append(
            Subject(
                name=entry["name"],
                title=entry["title"],
                trigger=entry["trigger"],
                class_name=entry["class_name"],
                goal=entry["goal"],
                photos=tuple(file for file in files if file not in held_out),
                held_out=held_out,
            )
        )
    return Samples(subjects=tuple(subjects), compositions=pictures("compositions"), looks=pictures("looks"))
