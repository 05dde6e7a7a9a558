"""The blocks that a denoiser repeats, compiled once and run for all of them ("regional compilation").

What torch has compiled it keeps by the code and by the classes and shapes that it saw, not by the model: it serves the
next picture too, and the next base of the family, though nothing of it is left on the model in between. Knows nothing
of LoRAs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BACKEND: Any = "inductor"
VARIANTS = 64
"""For how many combinations of base, size and attachments a block is compiled before the next is run as it is; torch's
8 are used up by a few LoRAs."""


@contextmanager
def compiled(denoiser: Any) -> Iterator[None]:
    """In the body, the repeated blocks are compiled when they are first run. Where that fails, they are run as they
    are."""
    from torch._dynamo import config

    with config.patch(recompile_limit=VARIANTS, suppress_errors=True):
        denoiser.compile_repeated_blocks(backend=BACKEND)
        try:
            yield
        finally:
            for module in denoiser.modules():
                vars(module).pop("_compiled_call_impl", None)


def repeated_blocks(model: Any) -> list[str]:
    """The names of the modules that `compiled` would compile."""
    classes = getattr(model, "_repeated_blocks", None) or ()
    return [name for name, module in model.named_modules() if type(module).__name__ in classes]
