import math

import pytest
import torch

from metta_train.policies.initialization import (
    EmbeddingMaxAbs,
    Initializer,
    LstmInputBias,
    Normal,
    Orthogonal,
    UniformRange,
    XavierUniform,
)


def filled(initializer: Initializer, *shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.empty(shape)
    initializer.fill(values, torch.Generator().manual_seed(seed))
    return values


def test_orthogonal_rows_have_the_gain_as_their_length_and_are_orthogonal():
    weight = filled(Orthogonal(math.sqrt(2)), 8, 3, 2, 2).flatten(1)
    torch.testing.assert_close(weight @ weight.t(), 2 * torch.eye(8))


def test_embedding_has_exactly_the_given_largest_absolute_value():
    weight = filled(EmbeddingMaxAbs(0.1), 100, 16)
    assert weight.abs().max().item() == pytest.approx(0.1, abs=1e-8)
    gram = weight.t() @ weight
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(16))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("forget", [0, 0, 1, 1, 0, 0, 0, 0]), ("ones", [1] * 8), ("zeros", [0] * 8)],
)
def test_lstm_bias_in_torch_gate_order_input_forget_cell_output(mode, expected):
    assert filled(LstmInputBias(mode), 8).tolist() == expected


def test_ranges():
    uniform = filled(UniformRange(0.5), 1000)
    assert -0.5 <= uniform.min() < -0.48
    assert 0.48 < uniform.max() <= 0.5
    assert filled(Normal(0.1), 10_000).std().item() == pytest.approx(0.1, rel=0.05)
    limit = math.sqrt(6 / (30 + 20))
    assert 0.95 * limit < filled(XavierUniform(), 30, 20).abs().max() <= limit


@pytest.mark.parametrize("initializer", [Orthogonal(), UniformRange(1), Normal(1), XavierUniform(), EmbeddingMaxAbs()])
def test_values_depend_on_the_generator_alone(initializer):
    torch.manual_seed(1)
    first = filled(initializer, 6, 4)
    torch.manual_seed(2)
    assert torch.equal(first, filled(initializer, 6, 4))
    assert not torch.equal(first, filled(initializer, 6, 4, seed=1))
