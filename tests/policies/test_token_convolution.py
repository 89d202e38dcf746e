"""The convolution from tokens against its slow twin: the same convolution of the drawn box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from metta_train.policies.observation import TokenBox
from metta_train.policies.token_convolution import convolve_placed_tokens, convolve_tokens
from metta_train.specs.environment_spec import Feature, TokenObservation

from .agents import build, random_observations, random_resets, token_spec

FEATURES = (Feature(0, "type"), Feature(4, "hp", 30.0), Feature(9, "tag", 7.0, categories=4))


def results(convolution: nn.Conv2d, output: torch.Tensor, downstream: torch.Tensor) -> list[torch.Tensor]:
    """Values and gradients."""
    convolution.zero_grad()
    output.backward(downstream)
    weight, bias = convolution.weight.grad, convolution.bias.grad if convolution.bias is not None else None
    assert weight is not None and bias is not None
    return [output.detach(), weight.clone(), bias.clone()]


def assert_twins(box: TokenBox, convolution: nn.Conv2d, tokens: torch.Tensor, *, relu: bool = False) -> None:
    slow = convolution(box(tokens))
    slow = functional.relu(slow) if relu else slow
    downstream = torch.randn(slow.shape, generator=torch.Generator().manual_seed(1))
    ignored = box.ignored_tokens.item()
    expected = results(convolution, slow, downstream)
    fast = convolve_placed_tokens(convolution, box.placed_tokens(tokens), box.window, relu=relu)
    assert box.ignored_tokens.item() == 2 * ignored  # counted alike
    with torch.no_grad():
        alone = convolve_placed_tokens(convolution, box.placed_tokens(tokens), box.window, relu=relu)
    assert torch.equal(alone, fast)
    for one, other in zip(results(convolution, fast, downstream), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@st.composite
def cases(draw):
    """Boxes, kernels and tokens of all kinds; few places, so that many tokens share one."""
    ids = draw(st.lists(st.integers(0, 254), min_size=1, max_size=4, unique=True))
    features = tuple(
        Feature(i, f"f{i}", draw(st.sampled_from([1.0, 3.0, 255.0])), draw(st.sampled_from([0, 0, 1, 5]))) for i in ids
    )
    height, width = draw(st.integers(3, 15)), draw(st.integers(3, 15))
    kernel = draw(st.integers(1, min(height, width)))
    location = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x10, 254, 255]))
    token = st.tuples(location, st.one_of(st.sampled_from(ids), st.integers(0, 255)), st.integers(0, 5))
    num_tokens = draw(st.integers(1, 10))
    rows = draw(st.lists(st.lists(token, min_size=num_tokens, max_size=num_tokens), min_size=1, max_size=4))
    return TokenObservation(num_tokens, height, width, features), kernel, draw(st.integers(1, 4)), rows


@settings(max_examples=160, deadline=None)
@given(cases(), st.booleans())
def test_any_tokens_give_what_the_box_gives(case, relu):
    observation, kernel, stride, rows = case
    torch.manual_seed(0)
    box = TokenBox(observation)
    convolution = nn.Conv2d(observation.num_channels, 3, kernel, stride)
    assert_twins(box, convolution, torch.tensor(rows, dtype=torch.uint8), relu=relu)


def test_by_hand():
    """One token of value 15 / 30 at (2, 1): it lies under output (0, 0) at (2, 1) of the kernel, and nowhere else."""
    box = TokenBox(TokenObservation(1, 5, 5, FEATURES))
    convolution = nn.Conv2d(6, 2, kernel_size=3, stride=3)
    output = convolve_placed_tokens(
        convolution, box.placed_tokens(torch.tensor([[(0x21, 4, 15)]]).byte()), box.window, relu=False
    )
    assert output.shape == (1, 2, 1, 1)
    assert convolution.bias is not None
    torch.testing.assert_close(output[0, :, 0, 0], convolution.bias + 0.5 * convolution.weight[:, 1, 2, 1])


@pytest.mark.parametrize("relu", [False, True])
def test_under_autocast_only_the_result_is_rounded(relu):
    torch.manual_seed(0)
    box = TokenBox(TokenObservation(30, 11, 11, FEATURES))
    tokens = torch.stack(
        [torch.randint(0, 90, (40, 30)), torch.randint(0, 10, (40, 30)), torch.randint(0, 4, (40, 30))], 2
    )
    tokens = tokens.byte()
    convolution = nn.Conv2d(6, 8, 5, 3)
    activation = functional.relu if relu else None
    exact = convolve_tokens(convolution, activation, box, tokens)
    downstream = torch.randn(exact.shape).bfloat16().float()
    expected = results(convolution, exact, downstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = convolve_tokens(convolution, activation, box, tokens)
    got = results(convolution, rounded, downstream.bfloat16())
    assert torch.equal(got[0], expected[0].bfloat16())
    for one, other in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_more_than_255_tokens():
    torch.manual_seed(0)
    tokens = torch.randint(0, 120, (3, 300, 3)).byte()
    tokens[..., 1] = torch.randint(0, 2, (3, 300)).byte() * 4
    assert_twins(TokenBox(TokenObservation(300, 8, 8, FEATURES)), nn.Conv2d(6, 3, 5, 3), tokens)


def test_no_token_at_all_gives_the_bias():
    tokens = torch.full((2, 6, 3), 255, dtype=torch.uint8)
    assert_twins(TokenBox(TokenObservation(6, 5, 5, FEATURES)), nn.Conv2d(6, 3, 3), tokens)


@pytest.mark.parametrize("arguments", [{"padding": 1}, {"dilation": 2}, {"groups": 2}, {"bias": False}])
def test_convolutions_of_other_kinds_go_through_the_box(arguments):
    box = TokenBox(TokenObservation(2, 5, 5, FEATURES))
    convolution = nn.Conv2d(6, 4, 3, **arguments)
    tokens = torch.randint(0, 64, (24, 2, 3)).byte()
    assert torch.equal(convolve_tokens(convolution, None, box, tokens), convolution(box(tokens)))


@pytest.mark.parametrize("name", ["agent=fast", "py_agent=fast"])
def test_hooks_on_the_layers_are_called(name):
    """Whoever listens to a layer hears it, also where a fast path would go around it."""
    spec = token_spec()
    policy = build(name, spec)
    heard = []
    layers = ("box", "cnn1", "cnn2", "core")
    observations = random_observations(spec, 24, 2)
    state, resets = policy.initial_state(24), random_resets(24, 2)
    quiet = policy(observations, state, resets)
    for layer in layers:
        policy.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: heard.append(layer))
    watched = policy(observations, state, resets)
    assert set(heard) == set(layers)
    torch.testing.assert_close(watched.logits, quiet.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(watched.values, quiet.values, rtol=1e-5, atol=1e-5)


def test_the_gradients_of_the_fast_agents_are_those_of_the_slow_paths():
    spec = token_spec(categories={3: 5})
    observations, resets = random_observations(spec, 24, 5), random_resets(24, 5)
    gradients = []
    for watch in (False, True):
        policy = build("py_agent=fast", spec)
        if watch:
            for module in policy.modules():
                module.register_forward_pre_hook(lambda *_: None)
        output = policy(observations, policy.initial_state(24), resets)
        (output.logits.square().mean() + output.values.mean()).backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters()})
    assert len(gradients[0]) == 25
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)
