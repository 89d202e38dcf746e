"""Settings that Linear and Conv2d share (reference: the weights that clipping and l2-init act on)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from metta_train.policies.component_graph.component import Component
from metta_train.policies.initialization import Initializer, Normal, Orthogonal, UniformRange, XavierUniform, Zeros
from metta_train.policies.policy import LayerSettings


class WeightLayerComponent(Component):
    """A layer with a weight and a bias; the bias starts at 0.

    Attributes:
        nonlinearity: "nn.<Class>" applied to the output, or null.
        initialization: orthogonal (gain sqrt 2 before tanh, else 1), xavier (uniform), normal (std sqrt(2 / fan_in))
            or max_0_01 (uniform within +-0.01).
        clip_scale: factor of this layer's limit when weights are clipped; 0 = never.
        l2_init_scale: factor of this layer in the l2-init loss.
        analyze_weights: report this layer's spectrum as `weights/<metric>/<component>`.
    """

    nonlinearity: str | None = "nn.ReLU"
    initialization: Literal["orthogonal", "xavier", "normal", "max_0_01"] = "orthogonal"
    clip_scale: Annotated[float, Field(ge=0.0)] = 1.0
    l2_init_scale: Annotated[float, Field(ge=0.0)] = 1.0
    analyze_weights: bool = True

    def initial_values(self, fan_in: int, bias: bool) -> dict[str, Initializer]:
        """By parameter name; `fan_in` counts the inputs of one output."""
        values: dict[str, Initializer] = {"weight": self._weight_initializer(fan_in)}
        if bias:
            values["bias"] = Zeros()
        return values

    def layer_settings(self) -> LayerSettings:
        """How the weight operations treat this layer."""
        return LayerSettings(self.clip_scale, self.l2_init_scale, self.analyze_weights)

    def _weight_initializer(self, fan_in: int) -> Initializer:
        match self.initialization:
            case "orthogonal":
                return Orthogonal(math.sqrt(2) if self.nonlinearity == "nn.Tanh" else 1.0)
            case "xavier":
                return XavierUniform()
            case "normal":
                return Normal(math.sqrt(2 / fan_in))
            case "max_0_01":
                return UniformRange(0.01)
