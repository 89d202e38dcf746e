"""Pools over cells or positions; sizes floor, as in torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.convolution import convolved_side
from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]


class PoolParams(ConfigModel):
    """`stride: null` means the kernel's size."""

    kernel_size: Positive
    stride: Positive | None = None
    padding: Annotated[int, Field(ge=0)] = 0


class AdaptivePoolParams(ConfigModel):
    """Cells per side of the output."""

    output_size: Positive


class Pool(Component):
    """`[channels, side, ...]` -> `[channels, side', ...]`."""

    sides: ClassVar[int]
    module_class: ClassVar[type[nn.Module]]
    nn_params: PoolParams

    def build(self, site: Site) -> Built:
        channels, *old_sides = site.one_input(dims=1 + self.sides)
        kernel_size, padding = self.nn_params.kernel_size, self.nn_params.padding
        stride = self.nn_params.stride or kernel_size
        if padding > kernel_size // 2:
            raise ValueError(f"nn_params.padding must be at most half of kernel_size={kernel_size}, got {padding}")
        new_sides = (convolved_side(side, kernel_size, stride, padding) for side in old_sides)
        return Built(self.module_class(kernel_size, stride, padding), Signal((channels, *new_sides)))


class MaxPool1d(Pool):
    """Largest value per window of positions."""

    sides = 1
    module_class = nn.MaxPool1d


class MaxPool2d(Pool):
    """Largest value per window of cells."""

    sides = 2
    module_class = nn.MaxPool2d


class AvgPool1d(Pool):
    """Mean per window of positions (padding counts as zeros)."""

    sides = 1
    module_class = nn.AvgPool1d


class AvgPool2d(Pool):
    """Mean per window of cells (padding counts as zeros)."""

    sides = 2
    module_class = nn.AvgPool2d


class AdaptivePool(Component):
    """`[channels, side, ...]` -> `[channels, output_size, ...]`, whatever the sides."""

    sides: ClassVar[int]
    module_class: ClassVar[type[nn.Module]]
    nn_params: AdaptivePoolParams

    def build(self, site: Site) -> Built:
        channels = site.one_input(dims=1 + self.sides)[0]
        output_size = self.nn_params.output_size
        return Built(self.module_class(output_size), Signal((channels, *[output_size] * self.sides)))


class AdaptiveAvgPool1d(AdaptivePool):
    """Means of `output_size` spans."""

    sides = 1
    module_class = nn.AdaptiveAvgPool1d


class AdaptiveAvgPool2d(AdaptivePool):
    """Means of `output_size` x `output_size` areas."""

    sides = 2
    module_class = nn.AdaptiveAvgPool2d


class AdaptiveMaxPool1d(AdaptivePool):
    """Largest values of `output_size` spans."""

    sides = 1
    module_class = nn.AdaptiveMaxPool1d


class AdaptiveMaxPool2d(AdaptivePool):
    """Largest values of `output_size` x `output_size` areas."""

    sides = 2
    module_class = nn.AdaptiveMaxPool2d
