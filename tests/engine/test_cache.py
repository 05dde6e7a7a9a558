import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from PIL import Image

from engine.cache import ModelCache, ValueCache, device_name, device_title, memory, size_bytes

MB = 2**20


class Weights:
    """Something of a known size that can be watched going away."""

    def __init__(self, size_mb: float) -> None:
        self.array = np.zeros(int(size_mb * MB), np.uint8)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


def use(cache: ModelCache, key: str, size_mb: float = 1) -> None:
    with cache.lease(key, lambda: Weights(size_mb)):
        pass


class TestSize:
    def test_modules_count_parameters_and_buffers(self) -> None:
        from torch import nn

        assert size_bytes(nn.Linear(10, 20)) == 4 * (10 * 20 + 20)
        assert size_bytes(nn.BatchNorm1d(6)) == 4 * (4 * 6) + 8  # weight, bias, mean, variance; a 64-bit counter
        assert size_bytes(nn.Linear(10, 20).half()) == 2 * (10 * 20 + 20)

    def test_shared_parts_count_once(self) -> None:
        from torch import nn

        layer, other = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
        other.weight = layer.weight
        assert size_bytes({"a": layer, "b": other, "c": [layer]}) == 400

    def test_anything_that_holds_them(self) -> None:
        import torch

        @dataclass
        class Components:
            unet: torch.nn.Module
            encoder: torch.nn.Module | None
            name: str

        parts = Components(torch.nn.Linear(2, 2, bias=False), None, "a name")
        assert size_bytes(parts) == 16
        assert size_bytes((torch.zeros(3), np.zeros(3), Image.new("RGB", (5, 7)), {"x": parts})) == 12 + 24 + 105 + 16
        assert size_bytes("text") == 0


class TestLease:
    def test_loads_once_and_keeps(self) -> None:
        cache = ModelCache(10 * MB)
        with cache.lease("unet", lambda: Weights(1)) as first:
            pass
        with cache.lease("unet", pytest.fail) as second:
            assert second is first
        assert cache.used_bytes() == MB

    def test_longest_unused_leaves_first(self) -> None:
        cache = ModelCache(3 * MB)
        for key in ("a", "b", "c", "a", "d"):
            use(cache, key)
        assert cache.keys() == ["c", "a", "d"]
        use(cache, "large", 2.5)
        assert cache.keys() == ["large"]
        assert cache.used_bytes() == 2.5 * MB

    def test_what_is_leased_stays_even_over_budget(self) -> None:
        cache = ModelCache(1 * MB)
        with cache.lease("a", lambda: Weights(1)) as a:
            use(cache, "b")
            assert cache.keys() == ["a"]
            with cache.lease("a", pytest.fail) as again:
                assert again is a
            cache.release_all()
            assert cache.keys() == ["a"]
        assert cache.keys() == ["a"]

    def test_what_leaves_is_freed(self) -> None:
        cache = ModelCache(10 * MB)
        with cache.lease("a", lambda: Weights(1)) as weights:
            weights.me = weights  # type: ignore[attr-defined]  # a cycle, as modules with hooks have
            gone = weakref.ref(weights)
        del weights
        cache.release_all()
        assert cache.keys() == []
        assert gone() is None

    def test_parts_added_during_a_lease_count(self) -> None:
        cache = ModelCache(10 * MB)
        with cache.lease("base", lambda: {"unet": Weights(1)}) as parts:
            parts["image_encoder"] = Weights(2)
        assert cache.used_bytes() == 3 * MB

    def test_a_failed_load_comes_out_and_the_next_lease_tries_again(self) -> None:
        cache = ModelCache(10 * MB)
        with pytest.raises(ZeroDivisionError), cache.lease("a", lambda: 1 / 0):
            pass
        assert cache.keys() == []
        use(cache, "a")
        assert cache.keys() == ["a"]

    def test_a_body_that_raises_ends_its_lease(self) -> None:
        cache = ModelCache(10 * MB)
        with pytest.raises(RuntimeError), cache.lease("a", lambda: Weights(1)):
            raise RuntimeError
        cache.release_all()
        assert cache.keys() == []

    def test_many_threads_share_one_load(self) -> None:
        cache = ModelCache(10 * MB)
        loads: list[int] = []

        def load() -> Weights:
            loads.append(1)
            time.sleep(0.05)
            return Weights(1)

        def lease() -> None:
            with cache.lease("a", load) as weights:
                assert weights.nbytes == MB

        threads = [threading.Thread(target=lease) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(loads) == 1

    def test_different_models_load_side_by_side(self) -> None:
        cache = ModelCache(10 * MB)
        both_are_loading = threading.Barrier(2, timeout=20)

        def load() -> Weights:
            both_are_loading.wait()
            return Weights(1)

        def lease(key: str) -> None:
            with cache.lease(key, load):
                pass

        threads = [threading.Thread(target=lease, args=(key,)) for key in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, cache.keys())) == ["a", "b"]

    def test_threads_at_random_never_lose_what_they_lease(self) -> None:
        cache = ModelCache(2 * MB)
        errors: list[str] = []

        def work(seed: int) -> None:
            for key in np.random.default_rng(seed).integers(0, 5, 8):
                with cache.lease(int(key), lambda key=key: {"key": key, "weights": Weights(1)}) as value:
                    held = cache.keys()
                    if value["key"] != key or key not in held:
                        errors.append(f"{key} was lost")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert cache.used_bytes() <= 2 * MB

    def test_default_budget_is_half_of_the_machine(self) -> None:
        if device_name() == "cuda":
            pytest.skip("the budget is the GPU's")
        cache = ModelCache()

        @dataclass
        class Claimed:
            nbytes: int

        half = psutil.virtual_memory().total // 2
        for key in "ab":
            with cache.lease(key, lambda: Claimed(half // 2 - MB)):
                pass
        assert cache.keys() == ["a", "b"]
        with cache.lease("c", lambda: Claimed(4 * MB)):
            pass
        assert cache.keys() == ["b", "c"]


class TestDevice:
    def test_is_told_without_importing_torch(self) -> None:
        check = """
import os, sys
from engine.cache import ModelCache, device_title, memory
cores = os.cpu_count()
assert device_title() == f"CPU, {cores} core{'s' if cores != 1 else ''}", device_title()
used_mb, total_mb = memory()
assert 1 < used_mb < total_mb
with ModelCache().lease("a", lambda: 1):
    pass
assert "torch" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", check], check=True)

    def test_memory_is_that_of_this_process_on_a_cpu(self) -> None:
        if device_name() == "cuda":
            pytest.skip("there is a GPU")
        block = np.ones(50 * MB, np.uint8)
        with_block_mb, total_mb = memory()
        del block
        without_block_mb, _ = memory()
        assert with_block_mb - without_block_mb == pytest.approx(50 * MB / 1e6, abs=2)
        assert total_mb == pytest.approx(psutil.virtual_memory().total / 1e6)

    def test_a_gpu_is_named(self) -> None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")
        assert device_title() == torch.cuda.get_device_name()


class TestValues:
    def test_made_once(self) -> None:
        values = ValueCache()
        assert values.get(("prompt", "a mug"), lambda: "embedding") == "embedding"
        assert values.get(("prompt", "a mug"), pytest.fail) == "embedding"

    def test_least_recently_used_leave_first(self) -> None:
        values = ValueCache(3000)
        for key in ("a", "b", "c", "a", "d"):
            values.get(key, lambda: np.zeros(1000, np.uint8))
        made: list[str] = []
        for key in ("a", "c", "d", "b"):
            values.get(key, lambda key=key: made.append(key))
        assert made == ["b"]

    def test_what_does_not_fit_is_returned_but_not_kept(self) -> None:
        values = ValueCache(10)
        assert values.get("a", lambda: np.zeros(100, np.uint8)).nbytes == 100
        assert values.used_bytes() == 0
