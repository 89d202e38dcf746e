"""One step of a policy as a graph of torch operations: memory in and out, any number of rows, no fast paths.

The ways around modules (`policies/watched.py`) step aside while torch records, so the graph holds the layers alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from metta_train.policies.observation import TokenBox
from metta_train.policies.policy import Policy
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.recurrent_state import RecurrentState

_ROWS = 3  # of the example; torch takes 0 and 1 for constants


class NotExportableError(ConfigError):
    """The agent does something that the wanted format cannot hold."""


def capture_step(policy: Policy) -> ExportedProgram:
    """The graph of `(observations [B, ...], resets [B], state) -> (logits [B, A], values [B], *state)`.

    `state` is a tuple of tensors `[B, ...]`, as in `RecurrentState`. Parameters and buffers are named after those of
    the policy, with `policy.` in front.

    Args:
        policy: on the CPU.

    Raises:
        NotExportableError: the agent's forward depends on values, or on the number of rows.
    """
    observation = policy.spec.observation
    dtype = getattr(torch, observation.dtype)
    example = torch.zeros(_ROWS, *observation.shape, dtype=dtype)
    state = policy.initial_state(_ROWS).tensors
    rows = Dim("rows")
    try:
        with torch.no_grad(), _boxes_without_reading(policy), warnings.catch_warnings():
            # Newer versions of torch put stand-ins for parameters, warn that LSTMs keep a second list of theirs, and
            # restore both.
            warnings.filterwarnings("ignore", r"The tensor attributes? [^ ]*\._flat_weights\[0\]", UserWarning)
            return torch.export.export(
                _Step(policy),
                (example, torch.zeros(_ROWS, dtype=torch.bool), state),
                dynamic_shapes=({0: rows}, {0: rows}, tuple({0: rows} for _ in state)),
            )
    except (RuntimeError, ValueError) as error:  # torch has many classes for this, all below these
        reason = str(error).strip().splitlines()[0]
        raise NotExportableError(
            f"torch cannot record this agent as a graph of any number of rows: {reason}"
        ) from error


class _Step(nn.Module):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor, resets: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        output = self.policy(observations.unsqueeze(1), RecurrentState(tuple(state)), resets.unsqueeze(1))
        return (output.logits.squeeze(1), output.values.squeeze(1), *output.state.tensors)


class _RecordedTokenBox(TokenBox):
    """Draws the same box without a look at the tokens' values, and counts nothing."""

    def forward(self, tokens: Tensor) -> Tensor:
        rows, num_tokens, _ = tokens.shape
        height, width = self.window
        size = self._box_size  # one place behind the box takes whatever is not drawn
        locations, features, values = (tokens[..., k].long() for k in range(3))
        feature_values = features * 256 + values
        in_box = self._cell_starts.long()[locations] + self._first_channels.long()[feature_values]
        ignored = in_box >= size
        slots = torch.where(ignored, size, in_box)
        # As in TokenBox: the last token of a (cell, feature) is the one whose position stays.
        positions = torch.arange(1, num_tokens + 1, dtype=torch.float32, device=tokens.device).expand(rows, num_tokens)
        last = torch.zeros(rows, size + 1, device=tokens.device).scatter_reduce(1, slots, positions, "amax")
        overwritten = last.gather(1, slots) != positions
        slots = torch.where(ignored | overwritten, size, in_box + self._channel_offsets.long()[feature_values])
        box = torch.zeros(rows, size + 1, device=tokens.device).scatter(1, slots, self._scaled_values[feature_values])
        return box[:, :size].view(rows, height, width, self.num_channels).permute(0, 3, 1, 2)


@contextmanager
def _boxes_without_reading(policy: Policy) -> Iterator[None]:
    # The steps of a graph hold their modules, so a box changes its class in its place.
    boxes = [module for module in policy.modules() if type(module) is TokenBox]
    for box in boxes:
        box.__class__ = _RecordedTokenBox
    try:
        yield
    finally:
        for box in boxes:
            box.__class__ = TokenBox
