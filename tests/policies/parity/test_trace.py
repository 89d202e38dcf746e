from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.parity.layers import compare_layers, first_difference, layer_calls, origin
from metta_train.policies.parity.trace import Trace, record


class Small(nn.Module):
    """fc1, relu, a product with a bare parameter, tanh, fc1 again."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(x))
        x = (x * self.scale) * self.mask
        return self.fc1(torch.tanh(x))


def trace_of(module: nn.Module, x: Tensor) -> Trace:
    return record(module, {"observations": x}, lambda: {"logits": module(x)})


def test_operations_are_named_with_their_module_and_parameters() -> None:
    torch.manual_seed(0)
    trace = trace_of(Small(), torch.randn(2, 3))
    seen = [(operation.name, operation.module, operation.parameters) for operation in trace.operations]
    assert seen == [
        ("linear", "fc1", ("fc1.weight", "fc1.bias")),
        ("relu", "", ()),
        ("mul", "", ("scale",)),
        ("mul", "", ()),
        ("tanh", "", ()),
        ("linear", "fc1", ("fc1.weight", "fc1.bias")),
    ]


def test_results_are_copies_of_that_moment() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            return y.mul_(10)

    trace = trace_of(InPlace(), torch.zeros(2))
    assert [operation.outputs[0].tolist() for operation in trace.operations] == [[1, 1], [10, 10]]


def test_a_layer_used_twice_has_two_calls() -> None:
    trace = trace_of(Small(), torch.randn(2, 3))
    assert [(call.layer, call.operations) for call in layer_calls(trace)] == [
        ("fc1", (0,)),
        ("scale", (2,)),
        ("fc1", (5,)),
    ]


def test_parts_and_forms_of_parameters_are_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.table(torch.tensor([1, 2]))
            return x @ rows.t()

    trace = trace_of(Tied(), torch.randn(2, 3))
    assert [(operation.name, operation.parameters) for operation in trace.operations] == [("matmul", ("table.weight",))]


def test_the_way_back_ends_at_the_nearest_layer() -> None:
    module, x = Small(), torch.randn(2, 3)
    trace = trace_of(module, x)
    places = compare_layers(trace, trace, (2, 1))
    assert first_difference(places, 0.0) is None
    second_input = next(p for p in places if p.layer == "fc1" and p.side == "input" and p.source == 4)
    made = origin(trace, second_input)
    assert made.layer == "scale" and made.kind == "layer"
    assert [operation.name for operation in made.between] == ["mul", "tanh"]
    first_input = next(p for p in places if p.layer == "fc1" and p.side == "input" and p.source == "observations")
    assert origin(trace, first_input).kind == "observations"


def test_layouts_are_brought_together() -> None:
    """Rows and steps flat or apart, and time first."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    class TimeFirst(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.transpose(0, 1)).transpose(0, 1)

    x = torch.randn(2, 5, 3)
    flat, time_first = Flat(), TimeFirst()
    time_first.load_state_dict(flat.state_dict())
    places = compare_layers(trace_of(flat, x), trace_of(time_first, x), (2, 5))
    assert [place.layer for place in places] == ["fc", "fc", "logits"]
    assert all(place.difference is not None and place.difference < 1e-6 for place in places)
