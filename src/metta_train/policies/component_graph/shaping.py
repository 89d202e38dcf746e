"""Components that change the shape of a signal and nothing else."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.specs.config_model import ConfigModel

Dim = Annotated[int, Field(ge=1)]  # 1 is the first dimension behind the rows


class Identity(Component):
    """Any shape, as it is."""

    def build(self, site: Site) -> Built:
        return Built(nn.Identity(), Signal(site.one_input()))


class Flatten(Component):
    """`[a, b, ...]` -> `[a * b * ...]`."""

    def build(self, site: Site) -> Built:
        site.one_input()
        return Built(nn.Flatten(start_dim=1), Signal((site.inputs[0].size,)))


class ExpandParams(ConfigModel):
    """Where the new dimension goes, and how long it is."""

    expand_dim: Dim
    expand_value: Annotated[int, Field(gt=0)]


class Expand(Component):
    """Repeats the signal along a new dimension: `[a, b]` -> `[a, n, b]` for `expand_dim: 2, expand_value: n`."""

    nn_params: ExpandParams

    def build(self, site: Site) -> Built:
        shape = site.one_input()
        dim, length = self.nn_params.expand_dim, self.nn_params.expand_value
        if dim > len(shape) + 1:
            raise ValueError(f"nn_params.expand_dim={dim} is beyond the end of shape {list(shape)}")
        return Built(_Expand(dim, length), Signal((*shape[: dim - 1], length, *shape[dim - 1 :])))


class _Expand(nn.Module):
    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self._dim = dim
        self._length = length

    def forward(self, signal: Tensor) -> Tensor:
        repeated = signal.unsqueeze(self._dim)
        sizes = [-1] * repeated.dim()
        sizes[self._dim] = self._length
        return repeated.expand(sizes)


class ReshapeParams(ConfigModel):
    """`popped_dim` disappears into its neighbour `squeezed_dim`."""

    popped_dim: Dim
    squeezed_dim: Dim


class Reshape(Component):
    """Merges two neighbouring dimensions: `[a, b, c]` -> `[a, b * c]` for `popped_dim: 3, squeezed_dim: 2`."""

    nn_params: ReshapeParams

    def build(self, site: Site) -> Built:
        shape = site.one_input()
        first, last = sorted((self.nn_params.popped_dim, self.nn_params.squeezed_dim))
        if last > len(shape) or last - first != 1:
            raise ValueError(
                f"nn_params: popped_dim={self.nn_params.popped_dim} and squeezed_dim={self.nn_params.squeezed_dim} "
                f"must be neighbouring dimensions of shape {list(shape)}"
            )
        merged = (*shape[: first - 1], shape[first - 1] * shape[last - 1], *shape[last:])
        return Built(nn.Flatten(first, last), Signal(merged))


class CenterPixel(Component):
    """The centre cell: `[channels, height, width]` -> `[channels]`."""

    def build(self, site: Site) -> Built:
        channels, height, width = site.one_input(dims=3)
        return Built(_Cell(height // 2, width // 2), Signal((channels,)))


class _Cell(nn.Module):
    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self._row = row
        self._column = column

    def forward(self, box: Tensor) -> Tensor:
        return box[:, :, self._row, self._column]
