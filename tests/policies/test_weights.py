from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metta_train.policies.policy import LayerSettings, Policy
from metta_train.policies.weights import (
    WeightAnchors,
    analyze_weight,
    clip_weights,
    l2_init_loss,
    l2_reg_loss,
    weight_metrics,
)

from .agents import vector_spec


class TwoLayers(Policy):
    """first: [[1, -4]], second: [[2], [3]]."""

    def __init__(self, **settings: LayerSettings) -> None:
        super().__init__(vector_spec(), state_shapes=())
        self.first = nn.Linear(2, 1)
        self.second = nn.Linear(1, 2)
        self.embedding = nn.Embedding(2, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -4.0]]))
            self.first.bias.fill_(50.0)
            self.second.weight.copy_(torch.tensor([[2.0], [3.0]]))
        for name, value in settings.items():
            self.configure_layer(name, value)

    def forward(self, observations, state, resets):
        raise NotImplementedError


def gradient(layer: nn.Linear) -> list[list[float]]:
    assert layer.weight.grad is not None
    return layer.weight.grad.tolist()


def change(layer: nn.Linear, values: list[list[float]]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values))


def test_clipping_uses_the_largest_absolute_weight_of_the_start_and_leaves_biases():
    policy = TwoLayers(second=LayerSettings(clip_scale=2.0))
    anchors = WeightAnchors.of(policy)
    change(policy.first, [[-9.0, 1.0]])
    change(policy.second, [[9.0], [-1.0]])
    clip_weights(policy, anchors, clip_range=0.5)
    # limits: first 0.5 * 4 * 1 = 2, second 0.5 * 3 * 2 = 3
    assert policy.first.weight.tolist() == [[-2.0, 1.0]]
    assert policy.second.weight.tolist() == [[3.0], [-1.0]]
    assert policy.first.bias.tolist() == [50.0]


def test_no_clipping_at_range_0_scale_0_or_for_weights_that_started_at_0():
    policy = TwoLayers(first=LayerSettings(clip_scale=0.0))
    change(policy.second, [[0.0], [0.0]])
    anchors = WeightAnchors.of(policy)
    change(policy.first, [[100.0, 0.0]])
    change(policy.second, [[5.0], [6.0]])
    for clip_range in (0.0, 0.1):
        clip_weights(policy, anchors, clip_range)
        assert policy.first.weight.tolist() == [[100.0, 0.0]]
        assert policy.second.weight.tolist() == [[5.0], [6.0]]


def test_initial_weights_are_within_the_limits_of_clip_range_1():
    policy = TwoLayers()
    clip_weights(policy, WeightAnchors.of(policy), 1.0)
    assert policy.first.weight.tolist() == [[1.0, -4.0]]


def test_l2_init_loss_and_its_gradient():
    policy = TwoLayers(second=LayerSettings(l2_init_scale=0.5))
    anchors = WeightAnchors.of(policy)
    assert l2_init_loss(policy, anchors).item() == 0.0
    change(policy.first, [[2.0, -4.0]])
    change(policy.second, [[2.0], [6.0]])
    loss = l2_init_loss(policy, anchors)
    assert loss.item() == 1.0 + 0.5 * 9.0
    loss.backward()
    assert gradient(policy.first) == [[2.0, 0.0]]  # 2 (w - w0)
    assert gradient(policy.second) == [[0.0], [3.0]]  # 0.5 * 2 * 3
    assert policy.first.bias.grad is None


def test_l2_init_scale_0_leaves_a_layer_out():
    policy = TwoLayers(first=LayerSettings(l2_init_scale=0.0))
    anchors = WeightAnchors.of(policy)
    change(policy.first, [[7.0, 7.0]])
    assert l2_init_loss(policy, anchors).item() == 0.0


def test_update_moves_the_anchor_but_not_the_clip_limit():
    policy = TwoLayers()
    anchors = WeightAnchors.of(policy)
    change(policy.first, [[8.0, 0.0]])
    anchors.update(policy)
    assert l2_init_loss(policy, anchors).item() == 0.0
    clip_weights(policy, anchors, 1.0)
    assert policy.first.weight.tolist() == [[4.0, 0.0]]


def test_l2_reg_loss_is_the_sum_of_squared_weights_with_gradient():
    policy = TwoLayers()
    loss = l2_reg_loss(policy)
    assert loss.item() == 1 + 16 + 4 + 9
    loss.backward()
    assert gradient(policy.first) == [[2.0, -8.0]]
    assert policy.embedding.weight.grad is None


def test_anchors_survive_a_round_trip():
    policy = TwoLayers()
    anchors = WeightAnchors.of(policy)
    saved = {name: tensor.clone() for name, tensor in anchors.tensors().items()}
    assert sorted(saved) == ["max_abs.first", "max_abs.second", "value.first", "value.second"]
    change(policy.first, [[0.0, 0.5]])
    other = WeightAnchors.of(policy)
    other.load(saved)
    assert other.max_abs("first").item() == 4.0
    assert other.value("first").tolist() == [[1.0, -4.0]]


def test_copies_of_anchors_are_made_once_per_change():
    policy = TwoLayers()
    anchors = WeightAnchors.of(policy)
    first = anchors.copies()
    assert anchors.copies() is first
    change(policy.first, [[0.0, 0.5]])
    anchors.update(policy)
    second = anchors.copies()
    assert first["value.first"].tolist() == [[1.0, -4.0]]
    assert second["value.first"].tolist() == [[0.0, 0.5]]
    anchors.load(first)
    assert anchors.copies()["value.first"].tolist() == [[1.0, -4.0]]
    assert second["value.first"].tolist() == [[0.0, 0.5]]


def test_anchors_of_another_network_are_refused_without_a_change():
    anchors = WeightAnchors.of(TwoLayers())
    tensors = dict(anchors.tensors())
    with pytest.raises(ValueError, match=r"'value\.second' has shape \[1, 1\], needs \[2, 1\]"):
        anchors.load({**tensors, "max_abs.first": torch.tensor(7.0), "value.second": torch.zeros(1, 1)})
    assert anchors.max_abs("first").item() == 4.0
    del tensors["value.first"]
    with pytest.raises(ValueError, match=r"'value\.first' is on one side only"):
        anchors.load(tensors)


def test_metrics_by_hand():
    # Singular values of a diagonal matrix are its entries: 4, 2, 1, 0.
    metrics = analyze_weight("w", torch.diag(torch.tensor([1.0, 4.0, 0.0, 2.0])))
    assert metrics.weight_norm == pytest.approx(math.sqrt(21))
    assert metrics.mean_sv == pytest.approx(7 / 4)
    assert metrics.largest_sv == pytest.approx(4.0)
    assert metrics.collapsed_dim == pytest.approx(1 / 4)
    assert metrics.sv_ratio == pytest.approx(4.0)
    assert metrics.effective_rank == 3  # 4 + 2 = 6 < 0.99 * 7 = 6.93 <= 7
    assert metrics.sv_loglog_slope is None  # three values are too few for a line
    assert metrics.sv_loglog_r2 is None


def test_loglog_line_of_a_power_law():
    metrics = analyze_weight("w", torch.diag(torch.arange(1, 9, dtype=torch.float64) ** -1.5))
    assert metrics.sv_loglog_slope == pytest.approx(-1.5)
    assert metrics.sv_loglog_r2 == pytest.approx(1.0)


def test_golden_orthogonal_layer_of_the_original():
    metrics = analyze_weight("w", torch.linalg.qr(torch.randn(128, 64, generator=torch.Generator().manual_seed(0)))[0])
    assert metrics.effective_rank == 64
    assert metrics.sv_ratio == pytest.approx(1.0, abs=1e-5)
    assert metrics.weight_norm == pytest.approx(8.0)


def test_convolutions_are_flattened_and_odd_matrices_have_no_undefined_metric():
    assert analyze_weight("conv", torch.ones(2, 3, 2, 2)).weight_norm == pytest.approx(math.sqrt(24))
    zero = analyze_weight("zero", torch.zeros(3, 3))
    assert (zero.collapsed_dim, zero.sv_ratio, zero.effective_rank) == (1.0, None, None)
    row = analyze_weight("row", torch.tensor([[3.0, 4.0]]))
    assert (row.largest_sv, row.effective_rank, row.sv_loglog_r2) == (pytest.approx(5.0), None, None)
    broken = analyze_weight("nan", torch.tensor([[float("nan"), 1.0]]))
    assert broken.mean_sv is None
    assert math.isnan(broken.weight_norm)


def test_metrics_come_from_analysed_layers_and_are_the_same_each_time():
    policy = TwoLayers(first=LayerSettings(analyze=False))
    assert [m.layer for m in weight_metrics(policy)] == ["second"]
    assert weight_metrics(policy) == weight_metrics(policy)
