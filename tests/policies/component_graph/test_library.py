"""Every component of the library returns the shape that it declares, and says what it cannot take."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from metta_train.policies.component_graph.component import Built, Signal, Site
from metta_train.policies.component_graph.library import LIBRARY
from metta_train.policies.settings import validated
from metta_train.specs.environment_spec import EnvironmentSpec

from ..agents import token_spec, vector_spec

TOKENS = token_spec(height=5, width=7, num_features=3)
TOKEN_SHAPE = (20, 3)

# class, settings, input shapes, output shape
CASES: list[tuple[str, dict[str, Any], list[tuple[int, ...]], tuple[int, ...]]] = [
    ("Linear", {"nn_params": {"out_features": 5}}, [(3,)], (5,)),
    ("Linear", {"nn_params": {"out_features": 5, "bias": False}, "initialization": "xavier"}, [(3,)], (5,)),
    ("Conv2d", {"nn_params": {"out_channels": 4, "kernel_size": 3, "stride": 2}}, [(2, 8, 11)], (4, 3, 5)),
    ("Conv2d", {"nn_params": {"out_channels": 4, "kernel_size": 3, "padding": 1}}, [(2, 8, 11)], (4, 8, 11)),
    ("Conv2d", {"nn_params": {"out_channels": 1, "kernel_size": 3, "dilation": 2}}, [(2, 8, 11)], (1, 4, 7)),
    ("Bilinear", {"nn_params": {"out_features": 5}}, [(3,), (4,)], (5,)),
    ("ResNetMLP", {"nn_params": {"depth": 8}}, [(6,)], (6,)),
    ("Embedding", {"nn_params": {"num_embeddings": 9, "embedding_dim": 2}}, [(3,)], (3, 2)),
    ("Flatten", {}, [(2, 3, 4)], (24,)),
    ("Identity", {}, [(2, 3)], (2, 3)),
    ("Expand", {"nn_params": {"expand_dim": 2, "expand_value": 5}}, [(2, 3)], (2, 5, 3)),
    ("Expand", {"nn_params": {"expand_dim": 3, "expand_value": 5}}, [(2, 3)], (2, 3, 5)),
    ("Reshape", {"nn_params": {"popped_dim": 3, "squeezed_dim": 2}}, [(2, 3, 4)], (2, 12)),
    ("Reshape", {"nn_params": {"popped_dim": 1, "squeezed_dim": 2}}, [(2, 3, 4)], (6, 4)),
    ("CenterPixel", {}, [(2, 5, 7)], (2,)),
    ("Concat", {}, [(2, 5), (3, 5), (1, 5)], (6, 5)),
    ("Concat", {"nn_params": {"dim": 2}}, [(24, 11, 11), (24, 11, 11)], (24, 22, 11)),
    ("Add", {}, [(2, 5), (2, 5), (2, 5)], (2, 5)),
    ("Subtract", {}, [(2, 5), (2, 5)], (2, 5)),
    ("Mean", {}, [(2, 5), (2, 5)], (2, 5)),
    ("LayerNorm", {}, [(2, 5)], (2, 5)),
    ("BatchNorm1d", {}, [(5,)], (5,)),
    ("BatchNorm2d", {}, [(5, 2, 3)], (5, 2, 3)),
    ("Dropout", {"nn_params": {"p": 0.9}}, [(5,)], (5,)),
    ("Dropout2d", {}, [(5, 2, 3)], (5, 2, 3)),
    ("AlphaDropout", {}, [(5,)], (5,)),
    ("MaxPool1d", {"nn_params": {"kernel_size": 2}}, [(3, 7)], (3, 3)),
    ("MaxPool2d", {"nn_params": {"kernel_size": 3, "stride": 1, "padding": 1}}, [(3, 7, 5)], (3, 7, 5)),
    ("AvgPool1d", {"nn_params": {"kernel_size": 3, "stride": 2}}, [(3, 7)], (3, 3)),
    ("AvgPool2d", {"nn_params": {"kernel_size": 2}}, [(3, 7, 5)], (3, 3, 2)),
    ("AdaptiveAvgPool1d", {"nn_params": {"output_size": 2}}, [(3, 7)], (3, 2)),
    ("AdaptiveAvgPool2d", {"nn_params": {"output_size": 2}}, [(3, 7, 5)], (3, 2, 2)),
    ("AdaptiveMaxPool1d", {"nn_params": {"output_size": 2}}, [(3, 7)], (3, 2)),
    ("AdaptiveMaxPool2d", {"nn_params": {"output_size": 2}}, [(3, 7, 5)], (3, 2, 2)),
    ("ObservationNormalizer", {}, [(3, 5, 7)], (3, 5, 7)),
    *[
        (name, {}, [(2, 3)], (2, 3))
        for name in ("ELU", "GELU", "LeakyReLU", "Mish", "ReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Tanh")
    ],
]
ELSEWHERE = {"ObsTokenToBox", "ObsVector", "LSTM", "ActionEmbedding", "MettaActorSingleHead", "MettaActorBig"}
ELSEWHERE |= {"ActorLinear"}  # these are tested in whole graphs


def build(name: str, settings: dict[str, Any], shapes: list[tuple[int, ...]], spec: EnvironmentSpec = TOKENS) -> Built:
    site = Site(tuple(Signal(shape) for shape in shapes), spec, num_action_rows=len(spec.actions))
    return validated(LIBRARY[name], settings, name).build(site)


def run(built: Built, *inputs: torch.Tensor) -> torch.Tensor:
    output = built.module.eval()(*inputs)
    return output if built.activation is None else built.activation(output)


@pytest.mark.parametrize(("name", "settings", "shapes", "expected"), CASES)
def test_the_output_has_the_declared_shape(name, settings, shapes, expected):
    built = build(name, settings, shapes)
    assert built.output == Signal(expected)
    inputs = [torch.rand(4, *shape) for shape in shapes]
    before = [i.clone() for i in inputs]
    assert run(built, *inputs).shape == (4, *expected)
    assert all(torch.equal(one, other) for one, other in zip(inputs, before, strict=True))


@pytest.mark.parametrize(("name", "settings", "shapes", "expected"), CASES)
def test_every_parameter_has_a_declared_initial_value(name, settings, shapes, expected):
    built = build(name, settings, shapes)
    assert set(built.initial_values) == {parameter for parameter, _ in built.module.named_parameters()}


def test_every_class_of_the_library_is_tested():
    assert {case[0] for case in CASES} | ELSEWHERE == set(LIBRARY)


@pytest.mark.parametrize(
    ("name", "settings", "shapes", "message"),
    [
        ("Concat", {}, [(2, 5), (3, 4)], r"equal shapes but for dim 1, got \[2, 5\], \[3, 4\]"),
        ("Concat", {"nn_params": {"dim": 3}}, [(2, 5), (2, 5)], r"nn_params.dim=3 does not exist in shape \[2, 5\]"),
        ("Concat", {}, [(2,)], r"at least 2 sources, got 1"),
        ("Add", {}, [(2,), (3,)], r"equal shapes, got \[2\], \[3\]"),
        ("Subtract", {}, [(2,)] * 3, r"exactly 2 sources, got 3"),
        ("Bilinear", {"nn_params": {"out_features": 1}}, [(2,)], r"exactly 2 sources, got 1"),
        ("ResNetMLP", {"nn_params": {"depth": 6}}, [(2,)], r"nn_params.depth: got 6: .*multiple of 4"),
        ("Reshape", {"nn_params": {"popped_dim": 1, "squeezed_dim": 3}}, [(2, 3, 4)], r"must be neighbouring"),
        ("Reshape", {"nn_params": {"popped_dim": 2, "squeezed_dim": 3}}, [(2, 3)], r"must be neighbouring"),
        ("Expand", {"nn_params": {"expand_dim": 4, "expand_value": 2}}, [(2, 3)], r"expand_dim=4 is beyond the end"),
        ("CenterPixel", {}, [(4,)], r"3 dimension\(s\), got shape \[4\]"),
        ("MaxPool2d", {"nn_params": {"kernel_size": 9}}, [(3, 7, 5)], r"kernel of 9 does not fit a side of 7"),
        ("MaxPool2d", {"nn_params": {"kernel_size": 3, "padding": 2}}, [(3, 7, 5)], r"padding must be at most half"),
        ("ObservationNormalizer", {}, [(4, 5, 7)], r"a box of 3 channels, got \[4, 5, 7\]"),
        ("ObsTokenToBox", {}, [(5, 3)], r"its source must be observations \[20, 3\], got \[5, 3\]"),
        ("ObsVector", {}, [TOKEN_SHAPE], r"reads box observations, but environment 'tokens' has tokens"),
        ("ActionEmbedding", {"nn_params": {"embedding_dim": 2}}, [(3,)], r"takes exactly 1 source, active_actions"),
        ("ActorLinear", {}, [(3,), (3,)], r"its second source must be active_actions"),
        ("MettaActorBig", {}, [(3,), (3, 2)], r"its second source must be the action embeddings"),
    ],
)
def test_what_a_component_cannot_take(name, settings, shapes, message):
    with pytest.raises(ValueError, match=message):
        build(name, settings, shapes)


def test_merges_by_hand():
    one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 6.0]])
    shapes = [(2,), (2,)]
    assert run(build("Add", {}, shapes), one, other).tolist() == [[4.0, 8.0]]
    assert run(build("Subtract", {}, shapes), one, other).tolist() == [[-2.0, -4.0]]
    assert run(build("Mean", {}, shapes), one, other).tolist() == [[2.0, 4.0]]
    assert run(build("Concat", {}, shapes), one, other).tolist() == [[1.0, 2.0, 3.0, 6.0]]


def test_the_centre_of_a_box():
    box = torch.arange(15.0).view(1, 1, 3, 5)
    assert run(build("CenterPixel", {}, [(1, 3, 5)]), box).tolist() == [[7.0]]  # row 1, column 2


def test_a_vector_of_any_box_observation():
    built = build("ObsVector", {"nn_params": {"normalization": 2.0}}, [(4,)], vector_spec())
    assert run(built, torch.tensor([[2, 4, 6, 8]])).tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_residual_blocks_with_zero_layers_pass_their_input_on():
    built = build("ResNetMLP", {"nn_params": {"depth": 4}}, [(3,)])
    with torch.no_grad():
        for name, parameter in built.module.named_parameters():
            if "norms.3" in name:
                parameter.zero_()
    x = torch.rand(2, 3)
    assert torch.equal(run(built, x), x)


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout", "BatchNorm1d"])
def test_what_acts_differently_in_training_is_announced(name, caplog):
    with caplog.at_level(logging.WARNING):
        built = build(name, {}, [(5,)])
    assert "one mode" in caplog.text
    x = torch.rand(2, 5)
    torch.testing.assert_close(run(built, x), x, rtol=1e-4, atol=1e-4)
