"""Observation tokens to a dense box of channels, one per scalar feature and `categories` per categorical feature."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metta_train.policies.kernels import tokens as token_kernels
from metta_train.policies.watched import is_recorded
from metta_train.specs.environment_spec import GLOBAL_LOCATION, PADDING_LOCATION, EnvironmentSpec, TokenObservation

_COUNTING = Lock()  # threads may share a policy


def token_observation(spec: EnvironmentSpec, policy: str) -> TokenObservation:
    """The spec's observation. Raises ValueError, naming `policy`, if it has no tokens."""
    if not isinstance(spec.observation, TokenObservation):
        raise ValueError(
            f"{policy} reads token observations, but environment {spec.name!r} has "
            f"{type(spec.observation).__name__}(shape={list(spec.observation.shape)}); choose agent=mlp"
        )
    return spec.observation


@dataclass(frozen=True, slots=True)
class PlacedTokens:
    """The tokens that a box would show, row after row: K of them in N rows."""

    places: NDArray[np.int32]  # [K]: cell << 16 | channel, where a cell is row << 4 | column
    values: NDArray[np.float32]  # [K]
    ends: NDArray[np.int32]  # [N]: where each row's tokens end


class TokenBox(nn.Module):
    """uint8 tokens `[N, M, 3]` -> float32 box `[N, C, H, W]` (channels-last in memory).

    The upper nibble of a location byte is the row of the cell. Location 255 is padding; 254 means the centre cell.
    Tokens of unknown features, of categories that a feature does not have, and of cells outside the window are
    ignored and counted. Of several tokens with the same (cell, feature) the last one wins, on every device.
    Channels follow the order of the spec's features. Nothing waits for the device.

    Attributes:
        ignored_tokens: int64 scalar, tokens ignored since the module was built (padding is not counted).
    """

    ignored_tokens: Tensor
    _cell_starts: Tensor
    _first_channels: Tensor
    _channel_offsets: Tensor
    _scaled_values: Tensor

    def __init__(self, observation: TokenObservation, *, normalize: bool = True) -> None:
        super().__init__()
        self.num_channels = observation.num_channels
        self.window = (observation.window_height, observation.window_width)
        self._box_size = self.num_channels * observation.window_height * observation.window_width
        self._has_categories = any(feature.categories for feature in observation.features)
        first_channels, channel_offsets, scaled_values = self._value_tables(observation, normalize)
        for name, table in (
            ("_cell_starts", self._location_table(observation)),
            ("_first_channels", first_channels),
            ("_channel_offsets", channel_offsets),
            ("_scaled_values", scaled_values),
            ("ignored_tokens", torch.zeros((), dtype=torch.int64)),
        ):
            self.register_buffer(name, table, persistent=False)
        self._placing = (
            self._cells(observation),
            first_channels.masked_fill(first_channels == self._box_size, -1).numpy(),
            channel_offsets.numpy(),
            scaled_values.numpy(),
        )

    def _location_table(self, observation: TokenObservation) -> Tensor:
        """`[256]`: place of a cell's first channel in the flat box; `_box_size` for cells that do not exist."""
        height, width = self.window
        table = torch.full((256,), self._box_size, dtype=torch.int32)
        for row in range(height):
            for column in range(width):
                table[row << 4 | column] = (row * width + column) * self.num_channels
        table[GLOBAL_LOCATION] = (height // 2 * width + width // 2) * self.num_channels
        return table

    def _cells(self, observation: TokenObservation) -> NDArray[np.uint8]:
        """`[256]`: the cell (row << 4 | column) of a location; 255 for cells that do not exist."""
        height, width = self.window
        cells = np.full(256, PADDING_LOCATION, np.uint8)
        inside = [row << 4 | column for row in range(height) for column in range(width)]
        cells[inside] = inside
        cells[PADDING_LOCATION] = PADDING_LOCATION
        cells[GLOBAL_LOCATION] = height // 2 << 4 | width // 2
        return cells

    def _value_tables(self, observation: TokenObservation, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Three tables over `feature id * 256 + value`.

        The feature's first channel (`_box_size` where the token is to be ignored), the channel's distance from it,
        and what is written.
        """
        first_channels = torch.full((256, 256), self._box_size, dtype=torch.int32)
        channel_offsets = torch.zeros((256, 256), dtype=torch.int32)
        scaled_values = torch.zeros((256, 256))
        byte_values = torch.arange(256, dtype=torch.int32)
        channel = 0
        for feature in observation.features:
            if feature.categories:
                first_channels[feature.id, : feature.categories] = channel
                channel_offsets[feature.id] = byte_values
                scaled_values[feature.id] = 1.0
            else:
                first_channels[feature.id] = channel
                scaled_values[feature.id] = byte_values / (feature.normalization if normalize else 1.0)
            channel += feature.num_channels
        return first_channels.flatten(), channel_offsets.flatten(), scaled_values.flatten()

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.device.type == "cpu" and not is_recorded():
            tokens = _without_padding_columns(tokens)
        rows, num_tokens, _ = tokens.shape
        height, width = self.window
        dump = rows * self._box_size  # one place behind the boxes takes whatever is not drawn

        in_box, feature_values, ignored = self._look_up(tokens)
        row_starts = torch.arange(rows, device=tokens.device).mul_(self._box_size)
        slots = (in_box.view(rows, num_tokens) + row_starts.unsqueeze(1)).view(-1).masked_fill_(ignored, dump)

        box = torch.zeros(dump + 1, device=tokens.device)
        # The box first holds, in each slot, the largest position (from 1) of its tokens; the others were overwritten.
        positions = torch.arange(1, num_tokens + 1, dtype=torch.float32, device=tokens.device).repeat(rows)
        box.scatter_reduce_(0, slots, positions, "amax")
        overwritten = box.index_select(0, slots) != positions
        if self._has_categories:
            box.scatter_(0, slots, 0.0)
            slots += self._channel_offsets.index_select(0, feature_values).masked_fill_(ignored, 0)
        slots.masked_fill_(overwritten, dump)
        box.scatter_(0, slots, self._scaled_values.index_select(0, feature_values))
        return box[:dump].view(rows, height, width, self.num_channels).permute(0, 3, 1, 2)

    def placed_tokens(self, tokens: Tensor) -> PlacedTokens:
        """What `forward` would draw, for whoever needs the few tokens and not the box; tokens on the CPU."""
        rows, num_tokens, _ = tokens.shape
        places = np.empty(rows * num_tokens, np.int32)
        values = np.empty(rows * num_tokens, np.float32)
        ends = np.empty(rows, np.int32)
        board = np.full(256 * self.num_channels, -1, np.int32)
        ignored = token_kernels.place_tokens(tokens.numpy(), *self._placing, board, places, values, ends)
        with _COUNTING:
            self.ignored_tokens += ignored
        used = int(ends[-1]) if rows else 0
        return PlacedTokens(places[:used], values[:used], ends)

    def _look_up(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each of the N * M tokens: place of its feature in the box, its row in the tables, whether it is ignored.

        The same (cell, feature) has the same place, so places decide which of several tokens is the last one.
        """
        # int32 indices: on the CPU four times as fast as int64 in everything but the look-up itself.
        locations, features, values = (tokens[..., k].to(torch.int32).flatten() for k in range(3))
        feature_values = features.mul_(256).add_(values)
        in_box = self._cell_starts.index_select(0, locations) + self._first_channels.index_select(0, feature_values)
        ignored = in_box >= self._box_size
        with torch.no_grad():
            self.ignored_tokens += ignored.sum() - (locations == PADDING_LOCATION).sum()
        return in_box, feature_values, ignored


def _without_padding_columns(tokens: Tensor) -> Tensor:
    """Cut the columns behind the last token of the fullest row. Reads values, so it is for CPU tensors only."""
    used = (tokens[..., 0].amin(dim=0) != PADDING_LOCATION).nonzero()
    return tokens[:, : int(used[-1]) + 1] if len(used) else tokens[:, :1]
