"""Kernels whose loops use the widest vectors of the CPU.

LLVM takes vectors of 256 bits on CPUs that have 512. Numba has one setting for that, which holds for all that a process
compiles and not at all once something was compiled, so what a kernel computes, to the last bit, would depend on who
imported what before. Here each kernel says it of itself, in its own LLVM function.
"""

from __future__ import annotations

from typing import Any

from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

_PREFERENCE = '"prefer-vector-width"="512"'  # narrower where the CPU has no vectors of that size


class _WideLower(Lower):
    def setup_function(self, fndesc: Any) -> None:  # noqa: ANN401  # Numba has no types
        super().setup_function(fndesc)
        set.add(self.function.attributes, _PREFERENCE)  # its own `add` knows attributes without a value alone


@register_pass(mutates_CFG=True, analysis_only=False)
class _WideLowering(NativeLowering):
    _name = "metta_train_wide_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _WideLower


class WideVectors(CompilerBase):
    """For `numba.njit(pipeline_class=...)`: Numba's own passes, but for the one that writes the function."""

    def define_pipelines(self) -> list[PassManager]:
        pipeline = PassManager("metta_train_wide")
        for each, description in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            pipeline.add_pass(_WideLowering if each is NativeLowering else each, description)
        pipeline.finalize()
        return [pipeline]
