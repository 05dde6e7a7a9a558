"""Who holds memory: models on the device, small values by content, and what the device is.

Models are leased, so that what is in use stays and what was used longest ago leaves first. Nothing here knows what a
model is for, and nothing imports torch before a model does: the page asks for device and memory long before.
"""

import dataclasses
import gc
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

import psutil
from PIL import Image

T = TypeVar("T")

GPU_SHARE = 0.7
"""How much of a GPU's memory models may fill; the rest is for activations."""
RAM_SHARE = 0.5


def device_name() -> str:
    """Where models run: "cuda", "mps" or "cpu". Imports torch."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_title() -> str:
    """The device in words, such as "NVIDIA L4" or "CPU, 2 cores". A GPU is known once torch is imported."""
    if cuda := _cuda():
        return cuda.get_device_name()
    cores = os.cpu_count()
    return f"CPU, {cores} core{'s' if cores != 1 else ''}"


def compute_capability() -> tuple[int, int] | None:
    """That of the CUDA GPU, such as (8, 9); (0, 0) where there is none, None as long as torch is not imported."""
    if _imported_torch() is None:
        return None
    cuda = _cuda()
    return cuda.get_device_capability() if cuda else (0, 0)


def memory() -> tuple[float, float]:
    """Used and total MB: of the GPU once torch is imported, else of this process and the machine."""
    if cuda := _cuda():
        free, total = cuda.mem_get_info()
        return (total - free) / 1e6, total / 1e6
    return psutil.Process().memory_info().rss / 1e6, psutil.virtual_memory().total / 1e6


def free_bytes() -> int:
    """What nothing holds of the GPU's memory once torch is imported, else of the machine's."""
    if cuda := _cuda():
        return cuda.mem_get_info()[0] + cuda.memory_reserved() - cuda.memory_allocated()
    return psutil.virtual_memory().available


def _imported_torch() -> ModuleType | None:
    """torch if it is imported to the end; another thread may be in the middle of that."""
    torch = sys.modules.get("torch")
    return None if torch is None or getattr(torch.__spec__, "_initializing", False) else torch


def _cuda() -> ModuleType | None:
    torch = _imported_torch()
    return torch.cuda if torch and torch.cuda.is_available() else None


def size_bytes(value: Any) -> int:
    """Bytes of the tensors, arrays and images in `value`, which may be one, or modules, dataclasses, dicts or sequences
    of them at any depth. What is shared counts once."""
    return sum({id(leaf): count for leaf, count in _leaves(value)}.values())


def _leaves(value: Any) -> Iterator[tuple[Any, int]]:
    torch = _imported_torch()
    if torch and isinstance(value, torch.nn.Module):
        yield from ((tensor, _tensor_bytes(tensor)) for tensor in (*value.parameters(), *value.buffers()))
    elif isinstance(value, Image.Image):
        yield value, value.width * value.height * len(value.getbands())
    elif hasattr(value, "nbytes"):
        yield value, value.nbytes
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from _leaves(getattr(value, f.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _tensor_bytes(tensor: Any) -> int:
    """One that is kept in fewer bits gives as `nbytes` what it would take without."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(getattr(tensor, name).nbytes for name in names)
    return tensor.nbytes


@dataclass
class _Entry:
    value: Any = None
    loaded: bool = False
    leases: int = 0
    size_bytes: int = 0
    loading: threading.Lock = field(default_factory=threading.Lock)


class ModelCache:
    """Models by key, within a budget. Whoever leases one may count on it until the lease ends."""

    def __init__(self, budget_bytes: int | None = None) -> None:
        """`budget_bytes` None: a share of the memory of the GPU, or of the machine where there is none."""
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # the one used longest ago comes first
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, key: Hashable, load: Callable[[], T]) -> Iterator[T]:
        """Yield the value of `key`, from `load` where it is not here yet.

        Who asks for it meanwhile waits for that one load; other keys do not. What `load` raises comes out here, and the
        next lease tries again.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.leases += 1
        try:
            with entry.loading:
                if not entry.loaded:
                    entry.value = load()
                    entry.size_bytes = size_bytes(entry.value)
                    entry.loaded = True
            self._shrink()
            yield entry.value
        finally:
            with self._lock:
                entry.leases -= 1
                self._entries.move_to_end(key)
                if entry.leases == 0 and not entry.loaded:
                    del self._entries[key]
                elif entry.leases == 0:
                    entry.size_bytes = size_bytes(entry.value)  # parts may have been added to it
            self._shrink()

    def release_all(self) -> None:
        """Give back the memory of everything that is not leased."""
        if self._drop_until(-1):
            give_back()

    def used_bytes(self) -> int:
        with self._lock:
            return sum(entry.size_bytes for entry in self._entries.values())

    def keys(self) -> list[Hashable]:
        """The one used longest ago comes first."""
        with self._lock:
            return list(self._entries)

    def _shrink(self) -> None:
        budget = self._budget_bytes
        if budget is None:
            budget = int(memory()[1] * 1e6 * (GPU_SHARE if _cuda() else RAM_SHARE))
        if self._drop_until(budget):
            give_back()

    def _drop_until(self, most_bytes: int) -> bool:
        """Drop what is not leased, longest unused first, until at most `most_bytes` are used; says whether any was."""
        with self._lock:
            used = sum(entry.size_bytes for entry in self._entries.values())
            idle = [key for key, entry in self._entries.items() if entry.leases == 0]
            before = len(self._entries)
            while idle and used > most_bytes:
                used -= self._entries.pop(idle.pop(0)).size_bytes
            return len(self._entries) < before


def give_back() -> None:
    """Return to the device what nothing refers to any more."""
    gc.collect()  # modules hold each other in cycles
    if cuda := _cuda():
        cuda.empty_cache()


class ValueCache:
    """Small values by content, such as prompt embeddings and control maps; the least recently used leave first."""

    def __init__(self, budget_bytes: int = 256 * 2**20) -> None:
        self._budget_bytes = budget_bytes
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, from `make` where it is not here. It is shared: do not change it."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while self._values and size_bytes(self._values) > self._budget_bytes:
                self._values.popitem(last=False)
        return value

    def used_bytes(self) -> int:
        with self._lock:
            return size_bytes(self._values)
