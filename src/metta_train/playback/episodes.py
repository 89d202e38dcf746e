"""Let a policy play, and tell of every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from metta_train.envs.stage import Note, Recorder, Stage, buffers_for
from metta_train.playback.moments import Cast, Decision, Moment, Source
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation
from metta_train.specs.random_streams import derived_seed

GROUP = 32  # of metta-eval: episode k of a seed is the same map here and there
NOTED = 8  # probabilities per agent in a replay, of which MettaGrid keeps 1024 bytes for each agent and step


@dataclass(frozen=True, slots=True)
class Player:
    """A policy, and how its actions are taken."""

    policy: Policy  # on `device`
    device: torch.device
    greedy: bool
    seed: int  # of maps and sampling, as metta-eval's


class PolicySource(Source):
    """Episodes that a policy plays.

    Args:
        cast: who plays where.
        player: who decides.
        stage: where; closed with the source.
        steps: end every episode after these; None goes to its end.
        recording: write a replay of each episode.
    """

    def __init__(self, cast: Cast, player: Player, stage: Stage, *, steps: int | None, recording: bool) -> None:
        self._cast = cast
        self._player = player
        self._stage = stage
        self._steps = steps
        self._recording = recording
        self._recorder: Recorder | None = None

    @property
    def cast(self) -> Cast:
        return self._cast

    def moments(self, episode: int) -> Iterator[Moment]:
        """A step is played for every moment that is asked for.

        Equal numbers and seeds are equal maps, in metta-eval as well; its evaluation of a single episode is the first
        one, to the bit. A replay is recorded from the first moment on. Moments of another episode end this one.
        """
        environment, stage = self._stage.environment, self._stage
        spec = environment.spec
        buffers = buffers_for(spec)
        map_seed, noise = _streams(self._player.seed, episode)
        environment.bind(buffers)
        environment.reset(map_seed)
        recorder = self._recorder = stage.recorder() if self._recording else None
        decide = _Decider(self._player, noise, rows=spec.num_agents)
        totals = np.zeros(spec.num_agents, np.float64)
        step = 0
        while True:
            ended = bool((buffers.terminations | buffers.truncations).all()) or step == self._steps
            decision = None if ended else decide(buffers.observations)
            yield Moment(step, stage.scene(), stage.image(), buffers.rewards.copy(), totals.copy(), decision)
            if decision is None:
                return
            environment.step(decision.actions.astype(np.int32))
            totals += buffers.rewards
            step += 1
            if recorder is not None:
                recorder.step(_notes(decision, spec.actions.names))

    def replay(self) -> bytes:
        assert self._recorder is not None, "a recorded episode comes before its replay"
        recorder, self._recorder = self._recorder, None
        return recorder.finish()

    def close(self) -> None:
        self._stage.environment.close()


def cast_of(spec: EnvironmentSpec, policy: str, limit: int | None, how: str) -> Cast:
    """Who plays where."""
    seen = spec.observation
    window = (seen.window_height, seen.window_width) if isinstance(seen, TokenObservation) else None
    return Cast(policy, spec.name, spec.actions.names, spec.num_agents, window, limit, how)


def _streams(seed: int, episode: int) -> tuple[int, int]:
    """Seeds of map and sampling: those of this episode in metta-eval's fixed set."""
    group, slot = divmod(episode - 1, GROUP)
    streams = derived_seed(seed, "evaluation")
    noise = derived_seed(streams, "rank", group, "sampling")  # of a whole group there
    return (
        derived_seed(streams, "rank", group, "env", slot, "episode", 0),
        noise if slot == 0 else derived_seed(noise, "episode", slot),
    )


class _Decider:
    """The policy with its memory of one episode."""

    def __init__(self, player: Player, noise: int, *, rows: int) -> None:
        self._player = player
        self._generator = torch.Generator(player.device).manual_seed(noise)
        self._state = player.policy.initial_state(rows, player.device)
        self._resets = torch.ones(rows, dtype=torch.bool, device=player.device)

    @torch.inference_mode()
    def __call__(self, seen: np.ndarray) -> Decision:
        policy = self._player.policy
        observations = torch.from_numpy(seen.copy()).to(self._player.device)
        output = policy(observations.unsqueeze(1), self._state, self._resets.unsqueeze(1))
        logits = output.logits.squeeze(1).float()
        if self._player.greedy:
            actions = logits.argmax(dim=-1)
        else:  # as metta-eval draws them
            actions = policy.act(observations, self._state, self._resets, self._generator).actions
        self._state = output.state
        self._resets = torch.zeros_like(self._resets)
        return Decision(
            actions=actions.cpu().numpy(),
            probabilities=functional.softmax(logits, dim=-1).cpu().numpy(),
            values=output.values.squeeze(1).float().cpu().numpy(),
        )


def _notes(decision: Decision, names: tuple[str, ...]) -> list[Note]:
    """Action, value and the largest probabilities, short enough for MettaGrid's replays.

    The action that MettaGrid itself records is a noop where the chosen one failed.
    """
    assert decision.probabilities is not None and decision.values is not None
    notes: list[Note] = []
    for action, probabilities, value in zip(decision.actions, decision.probabilities, decision.values, strict=True):
        likely = np.argsort(-probabilities, kind="stable")[:NOTED]
        notes.append(
            {
                "action": names[action],
                "probabilities": {names[index]: round(float(probabilities[index]), 4) for index in likely},
                "value": round(float(value), 4),
            }
        )
    return notes
