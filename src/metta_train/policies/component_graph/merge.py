"""Components that combine several signals; their sources may carry a `slice` with its `dim`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.specs.config_model import ConfigModel

Dim = Annotated[int, Field(ge=1)]


class ConcatParams(ConfigModel):
    """The dimension that grows; 1 is the first one behind the rows."""

    dim: Dim = 1


class Concat(Component):
    """Sources of equal shape but for one dimension, one behind the other along it."""

    nn_params: ConcatParams = ConcatParams()

    def build(self, site: Site) -> Built:
        shapes = _at_least_two(site)
        axis = self.nn_params.dim - 1
        if axis >= len(shapes[0]):
            raise ValueError(f"nn_params.dim={self.nn_params.dim} does not exist in shape {list(shapes[0])}")
        _same({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}, shapes, f"but for dim {self.nn_params.dim}")
        length = sum(shape[axis] for shape in shapes)
        return Built(_Concat(self.nn_params.dim), Signal((*shapes[0][:axis], length, *shapes[0][axis + 1 :])))


class _Concat(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self._dim = dim

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=self._dim)


class _EqualShapes(Component):
    """Sources of one shape, merged value by value."""

    def build(self, site: Site) -> Built:
        shapes = _at_least_two(site)
        _same(set(shapes), shapes, "")
        self._check_count(len(shapes))
        return Built(self._module(), Signal(shapes[0]))

    def _check_count(self, count: int) -> None:
        """Raise ValueError if this many sources cannot be merged."""

    @abstractmethod
    def _module(self) -> nn.Module: ...


class Add(_EqualShapes):
    """The sum of the sources."""

    def _module(self) -> nn.Module:
        return _Sum()


class Mean(_EqualShapes):
    """The mean of the sources."""

    def _module(self) -> nn.Module:
        return _Mean()


class Subtract(_EqualShapes):
    """The first source minus the second."""

    def _check_count(self, count: int) -> None:
        if count != 2:
            raise ValueError(f"takes exactly 2 sources, got {count}")

    def _module(self) -> nn.Module:
        return _Difference()


class _Sum(nn.Module):
    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


class _Mean(_Sum):
    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return super().forward(first, *others) / (1 + len(others))


class _Difference(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first - second


def _at_least_two(site: Site) -> list[tuple[int, ...]]:
    shapes = site.row_inputs()
    if len(shapes) < 2:
        raise ValueError(f"takes at least 2 sources, got {len(shapes)}")
    return shapes


def _same(different: set[tuple[int, ...]], shapes: Sequence[tuple[int, ...]], but_for: str) -> None:
    if len(different) > 1:
        listed = ", ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"its sources must have equal shapes{but_for and ' ' + but_for}, got {listed}")
