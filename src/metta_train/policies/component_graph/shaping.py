"""Components that change the shape of a signal and nothing else."""

from __future__ import annotations

from torch import nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site


class Flatten(Component):
    """`[a, b, ...]` -> `[a * b * ...]`."""

    def build(self, site: Site) -> Built:
        site.one_input()
        return Built(nn.Flatten(start_dim=1), Signal((site.inputs[0].size,)))
