"""Adam and Muon: what trains what, exact resumption, and a strict load."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from metta_train.training.config import OptimizerConfig
from metta_train.training.optimizers import PolicyOptimizer, build_optimizer, hidden_matrices

KINDS = ["adam", "muon"]


class Network(nn.Module):
    """One of each kind of parameter that a policy has."""

    def __init__(self, hidden_size: int = 6) -> None:
        super().__init__()
        self.cnn1 = nn.Conv2d(2, 3, 2)
        self.fc1 = nn.Linear(12, hidden_size)
        self.core = nn.LSTM(hidden_size, 4, batch_first=True)
        self.value = nn.Linear(4, 1)
        self.action_embeds = nn.Embedding(5, 4)
        self.bilinear = nn.Parameter(torch.ones(1, 4, 4))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.fc1(self.cnn1(images).flatten(1)).relu()
        hidden = self.core(hidden.unsqueeze(1))[0].squeeze(1)
        return (hidden @ self.bilinear[0] @ self.action_embeds.weight.t()).sum(1) + self.value(hidden).squeeze(1)


def make_network(hidden_size: int = 6) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(hidden_size)


def make_config(kind: str, *, weight_decay: float = 0.01, learning_rate: float = 0.01) -> OptimizerConfig:
    return OptimizerConfig.model_validate(
        {
            "type": kind,
            "learning_rate": learning_rate,
            "beta1": 0.9,
            "beta2": 0.99,
            "eps": 1e-8,
            "weight_decay": weight_decay,
        }
    )


def train(network: Network, optimizer: PolicyOptimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        network.zero_grad()
        network(images).square().mean().backward()
        optimizer.set_learning_rate(0.01 / (1 + step))
        optimizer.step()


def clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_bit_identical(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_saved_and_three_more_equal_six_in_a_row(kind: str) -> None:
    network = make_network()
    optimizer = build_optimizer(make_config(kind), network)
    train(network, optimizer, range(3))
    weights, state = clone(network.state_dict()), clone(optimizer.state_tensors())
    train(network, optimizer, range(3, 6))

    resumed_network = make_network()
    resumed_network.load_state_dict(weights)
    resumed = build_optimizer(make_config(kind), resumed_network)
    resumed.load_state_tensors(state)
    train(resumed_network, resumed, range(3, 6))

    assert_bit_identical(resumed_network.state_dict(), network.state_dict())
    assert_bit_identical(resumed.state_tensors(), optimizer.state_tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_state_the_steps_would_differ(kind: str) -> None:
    network = make_network()
    optimizer = build_optimizer(make_config(kind), network)
    train(network, optimizer, range(3))
    forgetful_network = make_network()
    forgetful_network.load_state_dict(network.state_dict())
    train(network, optimizer, range(3, 4))
    train(forgetful_network, build_optimizer(make_config(kind), forgetful_network), range(3, 4))
    assert not torch.equal(forgetful_network.fc1.weight, network.fc1.weight)


def test_adam_equals_plain_torch_adam() -> None:
    # State made in advance must behave as the state that torch makes at the first step.
    network, plain_network = make_network(), make_network()
    optimizer = build_optimizer(make_config("adam"), network)
    plain = torch.optim.Adam(
        [p for p in plain_network.parameters() if p.requires_grad],
        lr=0.01,
        betas=(0.9, 0.99),
        eps=1e-8,
        fused=True,
        weight_decay=0.01,
    )
    for step in range(3):
        train(network, optimizer, range(step, step + 1))
        plain.zero_grad()
        plain_network(torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        plain.param_groups[0]["lr"] = 0.01 / (1 + step)
        plain.step()
    assert_bit_identical(network.state_dict(), plain_network.state_dict())


def test_muon_trains_hidden_matrices_and_adamw_the_rest() -> None:
    network = make_network()
    hidden = ("fc1.weight", "core.weight_ih_l0", "core.weight_hh_l0", "unused.weight")
    assert set(hidden_matrices(network)) == {*hidden, "frozen"}
    names = build_optimizer(make_config("muon"), network).state_tensors().keys()
    for parameter, tensor in network.named_parameters():
        held = {name.partition("/")[2] for name in names if name.partition("/")[0] == parameter}
        if not tensor.requires_grad:
            assert held == set()
        elif parameter in hidden:
            assert held == {"momentum_buffer"}
        else:
            assert held == {"exp_avg", "exp_avg_sq", "step"}


def test_muon_updates_are_as_large_as_those_of_adamw() -> None:
    # The orthogonalised update of a 12 x 6 matrix has singular values near 1 (0.7 to 1.2), so its root mean square is
    # about sqrt(6 / 72), and the scale 0.2 * sqrt(12) makes that 0.2: lr * 0.2 = 0.002 per weight.
    network = make_network()
    before = network.fc1.weight.detach().clone()
    optimizer = build_optimizer(make_config("muon", weight_decay=0.0), network)
    train(network, optimizer, range(1))
    rms = (network.fc1.weight - before).square().mean().sqrt().item()
    assert 0.002 * 0.6 < rms < 0.002 * 1.3


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_is_a_fraction(kind: str) -> None:
    # The original truncated Muon's weight decay to an integer. With a gradient of exactly zero:
    #   muon: w <- w * (1 - lr * decay) = w * (1 - 0.5 * 0.1) = 0.95 w
    #   adam: the penalty's gradient 0.1 * w, as the first step, moves every weight by lr against its sign.
    network = make_network()
    before = network.fc1.weight.detach().clone()
    optimizer = build_optimizer(make_config(kind, weight_decay=0.1, learning_rate=0.5), network)
    network.fc1.weight.grad = torch.zeros_like(network.fc1.weight)
    optimizer.step()
    expected = before * 0.95 if kind == "muon" else before - 0.5 * before.sign()
    torch.testing.assert_close(network.fc1.weight.detach(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_rate_reaches_every_parameter(kind: str) -> None:
    network = make_network()
    before = clone(network.state_dict())
    optimizer = build_optimizer(make_config(kind, weight_decay=0.0), network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.set_learning_rate(0.0)
    optimizer.step()
    assert_bit_identical(network.state_dict(), before)
    optimizer.set_learning_rate(0.01)
    optimizer.step()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == trained


@pytest.mark.parametrize("kind", KINDS)
def test_state_has_the_same_names_before_and_after_training(kind: str) -> None:
    # `unused` never gets a gradient; its state is saved all the same, so that every checkpoint has the same names.
    network = make_network()
    optimizer = build_optimizer(make_config(kind), network)
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in optimizer.state_tensors().items()}
    assert any(name.startswith("unused.weight/") for name in before)
    train(network, optimizer, range(2))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in optimizer.state_tensors().items()} == before
    assert all(math.isfinite(tensor.sum().item()) for tensor in optimizer.state_tensors().values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loaded_state_is_the_state_that_torch_uses(kind: str) -> None:
    network = make_network()
    optimizer = build_optimizer(make_config(kind), network)
    train(network, optimizer, range(2))
    held = optimizer.state_tensors()
    inside = {
        id(tensor)
        for torch_optimizer in optimizer._optimizers
        for state in torch_optimizer.state.values()
        for tensor in state.values()
    }
    assert {id(tensor) for tensor in held.values()} == inside


def test_load_names_every_difference_and_changes_nothing() -> None:
    network = make_network()
    optimizer = build_optimizer(make_config("adam"), network)
    train(network, optimizer, range(2))
    before = clone(optimizer.state_tensors())

    wrong = clone(before)
    del wrong["fc1.bias/step"]
    wrong["fc9.bias/step"] = torch.zeros(())
    wrong["fc1.weight/exp_avg"] = torch.zeros(12, 6)
    wrong["value.bias/exp_avg_sq"] = wrong["value.bias/exp_avg_sq"].double()
    with pytest.raises(ValueError, match="does not fit") as error:
        optimizer.load_state_tensors(wrong)
    for part in (
        "fc1.bias/step is missing",
        "fc9.bias/step is not expected",
        "fc1.weight/exp_avg has shape [12, 6], needs [6, 12]",
        "value.bias/exp_avg_sq has dtype torch.float64, needs torch.float32",
    ):
        assert part in str(error.value)
    assert_bit_identical(optimizer.state_tensors(), before)


def test_the_state_of_another_optimizer_or_size_is_refused() -> None:
    adam = build_optimizer(make_config("adam"), make_network())
    muon = build_optimizer(make_config("muon"), make_network())
    with pytest.raises(ValueError, match=r"trainer.optimizer.type.*more"):
        muon.load_state_tensors(adam.state_tensors())
    # torch's own load_state_dict accepts moments of another shape and fails at the next step.
    with pytest.raises(ValueError, match=r"needs \[6, 12\]"):
        adam.load_state_tensors(build_optimizer(make_config("adam"), make_network(hidden_size=5)).state_tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_state_moves_between_devices(kind: str, cuda: str) -> None:
    on_gpu = build_optimizer(make_config(kind), make_network().to(cuda))
    on_cpu = build_optimizer(make_config(kind), make_network())
    on_gpu.load_state_tensors(on_cpu.state_tensors())
    on_cpu.load_state_tensors(on_gpu.state_tensors())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left_out", [True, False])
def test_a_step_that_is_left_out_changes_nothing(kind: str, left_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others are what they always were; nobody looks which of them it is."""
    network, plain = make_network(), make_network()
    optimizer, plain_optimizer = (build_optimizer(make_config(kind), one) for one in (network, plain))
    for own, step in ((network, optimizer), (plain, plain_optimizer)):
        train(own, step, range(2))
        train_gradients(own)
    before = [tensor.clone() for tensor in (*network.parameters(), *optimizer.state_tensors().values())]
    flag = torch.tensor(left_out)
    monkeypatch.setattr(Tensor, "__bool__", lambda self: pytest.fail("somebody looked"))
    optimizer.step(leave_out=flag)
    monkeypatch.undo()
    after = [*network.parameters(), *optimizer.state_tensors().values()]
    if left_out:
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        # Nothing stays behind: the next step is an ordinary one.
        optimizer.step()
    plain_optimizer.step()
    expected = [*plain.parameters(), *plain_optimizer.state_tensors().values()]
    # Where nobody may look, operations of torch take the place of Muon's kernel.
    tolerance = 1e-5 if kind == "muon" and not left_out else 0.0
    for one, other in zip(after, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def train_gradients(network: Network) -> None:
    network.zero_grad()
    network(torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(99))).square().mean().backward()
