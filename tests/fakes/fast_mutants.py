"""The hand-written fast agent with one mistake each: what `metta-parity` must find.

`SplitFast` is the agent itself, cut into the places where mistakes are made; a mutant overrides one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.observation import TokenBox
from metta_train.policies.py_agents.fast import CoreOptions, Fast, FastOptions
from metta_train.policies.recurrence import run_lstm
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState


class SplitFast(Fast):
    """No mistake."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec, FastOptions(core=CoreOptions(bias_init="forget")))

    @property
    def tokens(self) -> TokenObservation:
        observation = self.spec.observation
        assert isinstance(observation, TokenObservation)
        return observation

    def shape_observations(self, tokens: Tensor) -> Tensor:
        return self.box(tokens)

    def after_cnn1(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def run_cnn1(self, x: Tensor) -> Tensor:
        return self.cnn1(x)

    def run_cnn2(self, x: Tensor) -> Tensor:
        return self.cnn2(x)

    def after_cnn2(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def after_fc1(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def after_encoded_obs(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def to_steps(self, x: Tensor, rows: int, steps: int) -> Tensor:
        return x.unflatten(0, (rows, steps))

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, state, resets)

    def from_steps(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)

    def after_critic(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def after_value(self, x: Tensor) -> Tensor:
        return x

    def critic_input(self, encoded: Tensor, memory: Tensor) -> Tensor:
        return memory

    def after_actor(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def embeddings(self) -> Tensor:
        return self.action_embeds(self.active_rows)

    def score(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        return self.action(hidden, embeddings)

    def after_logits(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        rows, steps = resets.shape
        x = self.shape_observations(observations.flatten(0, 1))
        x = self.after_cnn1(self.run_cnn1(x))
        x = self.after_cnn2(self.run_cnn2(x))
        x = self.after_fc1(self.fc1(self.flatten(x)))
        encoded = self.after_encoded_obs(self.encoded_obs(x))
        x, state = self.remember(self.to_steps(encoded, rows, steps), state, resets)
        x = self.from_steps(x)
        values = self.after_value(self.value(self.after_critic(self.critic_1(self.critic_input(encoded, x)))))
        hidden = self.after_actor(self.actor_1(x))
        logits = self.after_logits(self.score(hidden, self.embeddings()))
        return PolicyOutput(
            logits=logits.unflatten(0, (rows, steps)), values=values.squeeze(1).unflatten(0, (rows, steps)), state=state
        )


# ----- observations


class PaddingErasesCellZero(SplitFast):
    """Padding is redirected to flat index 0 with value 0 (reference B1)."""

    def shape_observations(self, tokens: Tensor) -> Tensor:
        box = self.box(tokens).clone()
        first = self.tokens.features[0].id
        for row in range(tokens.shape[0]):
            used = ((tokens[row, :, 0] == 0) & (tokens[row, :, 1] == first)).nonzero()
            unused = (tokens[row, :, 0] == 255).nonzero()
            if len(used) and len(unused) and unused[-1] > used[-1]:
                box[row, 0, 0, 0] = 0.0
        return box


class SwappedWindow(SplitFast):
    """Lower nibble taken as the row (reference B17)."""

    def shape_observations(self, tokens: Tensor) -> Tensor:
        return self.box(tokens).transpose(2, 3)


class GlobalTokensDropped(SplitFast):
    def shape_observations(self, tokens: Tensor) -> Tensor:
        tokens = tokens.clone()
        tokens[..., 0][tokens[..., 0] == 254] = 255
        return self.box(tokens)


class OutsideSpills(SplitFast):
    """Flat index = feature * cells + row * width + column, whatever row and column are (reference B17)."""

    def shape_observations(self, tokens: Tensor) -> Tensor:
        observation = self.tokens
        height, width = observation.window_height, observation.window_width
        channels, channel = {}, 0
        for feature in observation.features:
            channels[feature.id] = (channel, feature)
            channel += feature.num_channels
        size = channel * height * width
        boxes = []
        for row in tokens.tolist():
            box = [0.0] * size
            for location, feature_id, value in row:
                if location == 255 or feature_id not in channels:
                    continue
                y, x = (height // 2, width // 2) if location == 254 else (location >> 4, location & 15)
                channel, feature = channels[feature_id]
                number, cell = value / feature.normalization, y * width + x
                if feature.categories:
                    if value >= feature.categories:
                        continue
                    for other in range(feature.categories):
                        box[((channel + other) * height * width + cell) % size] = 0.0
                    channel, number = channel + value, 1.0
                if channel * height * width + cell < size:
                    box[channel * height * width + cell] = number
            boxes.append(box)
        return torch.tensor(boxes).unflatten(1, (-1, height, width))


class FirstDuplicateWins(SplitFast):
    def shape_observations(self, tokens: Tensor) -> Tensor:
        return self.box(tokens.flip(1))


class NotNormalized(SplitFast):
    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        self.box = TokenBox(self.tokens, normalize=False)


class NormalizedTwice(SplitFast):
    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        features = tuple(replace(f, normalization=f.normalization**2) for f in self.tokens.features)
        self.box = TokenBox(replace(self.tokens, features=features))


class NormalizationsShifted(SplitFast):
    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        features = self.tokens.features
        shifted = tuple(
            replace(f, normalization=features[(k + 1) % len(features)].normalization) for k, f in enumerate(features)
        )
        self.box = TokenBox(replace(self.tokens, features=shifted))


class CategoryAsNumber(SplitFast):
    """The value of a categorical feature in its first channel, the other channels unused."""

    def shape_observations(self, tokens: Tensor) -> Tensor:
        channel, pieces = 0, []
        numbers = tuple(
            replace(f, categories=0, normalization=1 if f.categories else f.normalization) for f in self.tokens.features
        )
        box = TokenBox(replace(self.tokens, features=numbers))(tokens)
        for k, feature in enumerate(self.tokens.features):
            pieces.append(box[:, k : k + 1])
            pieces.append(torch.zeros_like(box[:, :1]).expand(-1, feature.num_channels - 1, -1, -1))
            channel += feature.num_channels
        return torch.cat(pieces, dim=1)


class UnknownFeatureInLastChannel(SplitFast):
    def shape_observations(self, tokens: Tensor) -> Tensor:
        box = self.box(tokens).clone()
        last = self.tokens.features[-1].id
        known = [feature.id for feature in self.tokens.features if feature.id != last]
        height, width = self.tokens.window_height, self.tokens.window_width
        for row in range(tokens.shape[0]):
            for location, feature_id, value in tokens[row].tolist():
                y, x = (height // 2, width // 2) if location == 254 else (location >> 4, location & 15)
                if feature_id not in known and location != 255 and y < height and x < width:
                    box[row, -1, y, x] = value / (self.tokens.features[-1].normalization if feature_id == last else 1)
        return box


# ----- encoder


class NoReluAfterCnn2(SplitFast):
    def after_cnn2(self, x: Tensor) -> Tensor:
        return x


class GeluAfterCnn1(SplitFast):
    def after_cnn1(self, x: Tensor) -> Tensor:
        return functional.gelu(x)


class TanhAfterFc1(SplitFast):
    def after_fc1(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class LeakyReluAfterEncodedObs(SplitFast):
    def after_encoded_obs(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x)


class NoReluAfterEncodedObs(SplitFast):
    def after_encoded_obs(self, x: Tensor) -> Tensor:
        return x


class SigmoidModuleAfterFc1(SplitFast):
    """The wrong activation as a module."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        self.activation = nn.Sigmoid()

    def after_fc1(self, x: Tensor) -> Tensor:
        return self.activation(x)


class ChannelsLastFlatten(SplitFast):
    """Visible only where cnn2 leaves more than one cell."""

    def flatten(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class TransposedKernels(SplitFast):
    def run_cnn1(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.cnn1.weight.transpose(2, 3), self.cnn1.bias, stride=3)


class NoBiasInCnn2(SplitFast):
    def run_cnn2(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.cnn2.weight)


class LayerNormAfterFc1(SplitFast):
    def after_fc1(self, x: Tensor) -> Tensor:
        return functional.layer_norm(functional.relu(x), (128,))


class DropoutAfterEncodedObs(SplitFast):
    def after_encoded_obs(self, x: Tensor) -> Tensor:
        return functional.dropout(functional.relu(x), 0.5, training=True)


class ScaledPixels(SplitFast):
    """Divides by 255 on top of the normalizations."""

    def shape_observations(self, tokens: Tensor) -> Tensor:
        return self.box(tokens) / 255


# ----- memory


class ReshapedToTimeFirst(SplitFast):
    """T where B belongs: the rows of different agents are mixed."""

    def to_steps(self, x: Tensor, rows: int, steps: int) -> Tensor:
        return x.unflatten(0, (steps, rows)).transpose(0, 1)


class FlattenedTimeFirst(SplitFast):
    def from_steps(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(0, 1)


class ResetsIgnored(SplitFast):
    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, state, torch.zeros_like(resets))


class ResetsInsideIgnored(SplitFast):
    """Training restarts at segment starts only (reference B9)."""

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, state.zero_where(resets[:, 0]), torch.zeros_like(resets))


class ResetsLate(SplitFast):
    """The state is zeroed after the first observation of an episode (reference B9)."""

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        late = functional.pad(resets, (1, 0))[:, :-1]
        outputs, state = run_lstm(self.core, x, state, late)
        return outputs, state.zero_where(resets[:, -1])


class ResetsForAllRows(SplitFast):
    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, state, resets.any(dim=0).expand_as(resets))


class ResetsInverted(SplitFast):
    """A mask of what to keep, used as a mask of what to zero."""

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, state, ~resets)


class CellNotReset(SplitFast):
    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        outputs = []
        for step in range(x.shape[1]):
            hidden = state.zero_where(resets[:, step]).tensors[0]
            output, state = run_lstm(
                self.core,
                x[:, step : step + 1],
                RecurrentState((hidden, state.tensors[1])),
                torch.zeros_like(resets[:, :1]),
            )
            outputs.append(output)
        return torch.cat(outputs, dim=1), state


class StateIgnored(SplitFast):
    """Every call starts from zero (reference B9b)."""

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, self.initial_state(x.shape[0]), resets)


class StateNotCarried(SplitFast):
    """Every step of a sequence starts from the memory of the first."""

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        outputs, after = [], state
        for step in range(x.shape[1]):
            output, after = run_lstm(self.core, x[:, step : step + 1], state, resets[:, step : step + 1])
            outputs.append(output)
        return torch.cat(outputs, dim=1), after


class StateLayersSwapped(SplitFast):
    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        swapped = RecurrentState(tuple(tensor.flip(1) for tensor in state.tensors))
        return run_lstm(self.core, x, swapped, resets)


class HiddenAndCellSwapped(SplitFast):
    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, RecurrentState(state.tensors[::-1]), resets)


class OldStateGivenBack(SplitFast):
    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        return run_lstm(self.core, x, state, resets)[0], state


class OwnLstm(SplitFast):
    """An LSTM written out by hand; `gates` is the order in which its chunks are read."""

    gates = (0, 1, 2, 3)
    hidden_bias = 1.0

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        hidden, cell = (list(tensor.unbind(1)) for tensor in state.tensors)
        outputs = []
        for step in range(x.shape[1]):
            kept = (~resets[:, step]).float().unsqueeze(1)
            signal = x[:, step]
            for layer in range(2):
                weights = [
                    getattr(self.core, f"{name}_l{layer}") for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
                ]
                hidden[layer], cell[layer] = hidden[layer] * kept, cell[layer] * kept
                chunks = (
                    signal @ weights[0].t()
                    + weights[1]
                    + hidden[layer] @ weights[2].t()
                    + self.hidden_bias * weights[3]
                ).chunk(4, dim=1)
                i, f, g, o = (chunks[place] for place in self.gates)
                cell[layer] = f.sigmoid() * cell[layer] + i.sigmoid() * g.tanh()
                hidden[layer] = signal = o.sigmoid() * cell[layer].tanh()
            outputs.append(signal)
        return torch.stack(outputs, dim=1), RecurrentState((torch.stack(hidden, 1), torch.stack(cell, 1)))


class GatesInAnotherOrder(OwnLstm):
    """Chunks read as (input, forget, output, cell), as other libraries store them."""

    gates = (0, 1, 3, 2)


class HiddenBiasForgotten(OwnLstm):
    hidden_bias = 0.0


# ----- heads


class CriticReadsEncoder(SplitFast):
    def critic_input(self, encoded: Tensor, memory: Tensor) -> Tensor:
        return encoded


class ReluInCritic(SplitFast):
    def after_critic(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class TanhOnValue(SplitFast):
    def after_value(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class NoReluInActor(SplitFast):
    def after_actor(self, x: Tensor) -> Tensor:
        return x


class QueryWithoutTanh(SplitFast):
    def score(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        return hidden @ self.action.weight[0] @ embeddings.t() + self.action.bias


class EmbeddingRowsFromZero(SplitFast):
    """Rows 0..n-1 instead of 1..n (reference B2)."""

    def embeddings(self) -> Tensor:
        return self.action_embeds.weight[: len(self.spec.actions)]


class EmbeddingRowsOneTooHigh(SplitFast):
    def embeddings(self) -> Tensor:
        return self.action_embeds(self.active_rows + 1)


class ScaledLogits(SplitFast):
    """Divided by the root of the embedding size, as attention does."""

    def after_logits(self, logits: Tensor) -> Tensor:
        return logits / 4


class NoBiasInActor(SplitFast):
    def score(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        return torch.tanh(hidden @ self.action.weight[0]) @ embeddings.t()


class LogSoftmaxOverRows(SplitFast):
    def after_logits(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=0)


class ActionsShifted(SplitFast):
    """Logit k belongs to action k - 1."""

    def after_logits(self, logits: Tensor) -> Tensor:
        return logits.roll(1, dims=1)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A policy with a mistake, and what has to be said about it."""

    policy: type[SplitFast]
    subject: str  # the first layer that differs
    kind: str  # of the most likely cause
    words: str  # in its text
    window: int = 11


MUTANTS = (
    Mutant(PaddingErasesCellZero, "box", "padding-writes", "cell (0, 0)"),
    Mutant(SwappedWindow, "box", "axes", "height and width"),
    Mutant(GlobalTokensDropped, "box", "global-tokens", "dropped"),
    Mutant(OutsideSpills, "box", "outside-spills", "spill"),
    Mutant(FirstDuplicateWins, "box", "duplicates", "the first wins"),
    Mutant(NotNormalized, "box", "normalization", "not divided"),
    Mutant(NormalizedTwice, "box", "normalization", "twice"),
    Mutant(NormalizationsShifted, "box", "normalization", "other features"),
    Mutant(CategoryAsNumber, "box", "categories", "as a number"),
    Mutant(UnknownFeatureInLastChannel, "box", "unknown-features", "last channel"),
    Mutant(ScaledPixels, "box", "scale", "0.003922"),
    Mutant(GeluAfterCnn1, "cnn1", "activation-other", "gelu instead of relu after cnn1"),
    Mutant(TransposedKernels, "cnn1", "axes", "kernels of cnn1"),
    Mutant(NoBiasInCnn2, "cnn2", "bias-missing", "bias of cnn2"),
    Mutant(NoReluAfterCnn2, "cnn2", "activation-missing", "relu is missing after cnn2"),
    Mutant(ChannelsLastFlatten, "cnn2", "flatten-order", "(height, width, channels)", window=15),
    Mutant(TanhAfterFc1, "fc1", "activation-other", "tanh instead of relu after fc1"),
    Mutant(SigmoidModuleAfterFc1, "fc1", "activation-other", "sigmoid instead of relu after fc1"),
    Mutant(LayerNormAfterFc1, "fc1", "normalization", "layer normalisation is applied"),
    Mutant(LeakyReluAfterEncodedObs, "encoded_obs", "activation-other", "leaky_relu instead of relu"),
    Mutant(NoReluAfterEncodedObs, "encoded_obs", "activation-missing", "relu is missing after encoded_obs"),
    Mutant(DropoutAfterEncodedObs, "encoded_obs", "dropout", "is dropped"),
    Mutant(ReshapedToTimeFirst, "encoded_obs", "time-axis", "[T, B] instead of [B, T]"),
    Mutant(FlattenedTimeFirst, "core", "time-axis", "time first"),
    Mutant(ResetsIgnored, "core", "resets-ignored", "resets are ignored"),
    Mutant(ResetsInsideIgnored, "core", "resets-inside-ignored", "not inside"),
    Mutant(ResetsLate, "core", "resets-late", "one step late"),
    Mutant(ResetsForAllRows, "core", "resets-all-rows", "all rows"),
    Mutant(ResetsInverted, "core", "resets-inverted", "inverted"),
    Mutant(CellNotReset, "core", "reset-incomplete", "cell state"),
    Mutant(StateIgnored, "core", "state-ignored", "memory is ignored"),
    Mutant(StateNotCarried, "core", "state-not-carried", "not carried"),
    Mutant(StateLayersSwapped, "core", "state-layers-swapped", "reverse order"),
    Mutant(HiddenAndCellSwapped, "core", "state-tensors-swapped", "hidden and cell"),
    Mutant(OldStateGivenBack, "core", "state-not-updated", "memory that came in"),
    Mutant(GatesInAnotherOrder, "core", "gate-order", "(input, forget, output, cell)"),
    Mutant(HiddenBiasForgotten, "core", "bias-missing", "bias_hh"),
    Mutant(CriticReadsEncoder, "core", "wiring", "critic_1 reads relu of encoded_obs"),
    Mutant(ReluInCritic, "critic_1", "activation-other", "relu instead of tanh after critic_1"),
    Mutant(TanhOnValue, "value", "activation-extra", "tanh is applied after value"),
    Mutant(NoReluInActor, "actor_1", "activation-missing", "relu is missing after actor_1"),
    Mutant(QueryWithoutTanh, "action", "activation-missing", "tanh is missing after action"),
    Mutant(EmbeddingRowsFromZero, "action_embeds", "embedding-shift", "row k-1"),
    Mutant(EmbeddingRowsOneTooHigh, "action_embeds", "embedding-shift", "row k+1"),
    Mutant(ScaledLogits, "action", "scale", "0.25"),
    Mutant(NoBiasInActor, "action", "bias-missing", "bias of action"),
    Mutant(LogSoftmaxOverRows, "action", "softmax", "log_softmax over axis 0"),
    Mutant(ActionsShifted, "action", "shift", "shifted by 1"),
)
