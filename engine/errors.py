"""Every way a request can go wrong, as a sentence that a person can act on.

An error says what is wrong and with which file or value (`problem`), and what to do about it (`remedy`). The page shows
both; nothing here knows of pages, models or files.
"""


class TripodError(Exception):
    """Something the person can mend. `str(error)` is the whole sentence: problem, then remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class BadSettings(TripodError):
    """A value out of range, of the wrong kind, or unknown."""


class BadImage(TripodError):
    """A file that is not a picture, is too large, or is damaged."""


class BadArchive(TripodError):
    """A zip that is damaged, hostile or too large."""


class BadDataset(TripodError):
    """Too few or too many photos, or captions that cannot be trained on."""


class BadLora(TripodError):
    """A LoRA file that is damaged, pickled, or made for another base."""


class BadRecipe(TripodError):
    """A picture that carries no recipe, or one that does not hold here."""


class BadModel(TripodError):
    """A model file that is damaged, pickled, or of no family here."""


class MissingModel(TripodError):
    """A model that is neither embedded nor reachable."""


class NotFound(TripodError):
    """A dataset, LoRA, picture, image or job that is not in the workspace."""


class NoRoom(TripodError):
    """Not enough disk or device memory for what was asked."""


class NothingDetected(TripodError):
    """A detector that found nothing of its kind in the picture, such as no person for a pose."""


class Cancelled(TripodError):
    """The person stopped the job."""

    def __init__(self) -> None:
        super().__init__("Stopped.", "What was finished before is kept.")
