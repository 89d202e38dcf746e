from __future__ import annotations

import importlib.util
import threading
import time
from typing import Any

import numba
import pytest
from numba.core.caching import IndexDataCacheFile
from numba.core.registry import cpu_target

from metta_train.policies.kernels.kernel_cache import KernelCache


def doubled(values):
    return values * 2


def test_who_saves_at_the_same_moment_takes_turns(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    compiled = numba.njit(doubled)
    kinds = [numba.float32[:], numba.uint16[:]]
    for kind in kinds:
        compiled.compile((kind,))
    save_index = IndexDataCacheFile._save_index

    def slowly(self: IndexDataCacheFile, overloads: dict[object, str]) -> None:
        time.sleep(0.2)  # the other has read the old index by now
        save_index(self, overloads)

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", slowly)
    savers = [
        threading.Thread(target=KernelCache(doubled).save_overload, args=(result.signature, result))
        for result in compiled.overloads.values()
    ]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    for (arguments,), result in compiled.overloads.items():
        found = KernelCache(doubled).load_overload(result.signature, cpu_target.target_context)
        assert found is not None and found.signature.args == (arguments,)


def test_a_kernel_is_compiled_anew_when_a_file_beside_its_own_has_changed(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """It may have taken a function from there."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path / "compiled"))
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "mine.py").write_text("def twice(values):\n    return values * 2\n")
    (folder / "other.py").write_text("")
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    assert spec is not None and spec.loader is not None
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    dispatcher: Any = numba.njit(mine.twice)
    dispatcher.compile((numba.float32[:],))
    (compiled,) = dispatcher.overloads.values()
    KernelCache(mine.twice).save_overload(compiled.signature, compiled)
    assert KernelCache(mine.twice).load_overload(compiled.signature, cpu_target.target_context) is not None
    (folder / "other.py").write_text("CHANGED = True\n")
    assert KernelCache(mine.twice).load_overload(compiled.signature, cpu_target.target_context) is None
