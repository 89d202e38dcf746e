"""What the terminal shows of a run: rates and means over the recent past, computed from the epoch records."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from metta_train.reporting.metric_names import mean_reward
from metta_train.reporting.reporter import RunHeader
from metta_train.specs.records import EpisodeRecord, EpochRecord, EvaluationScores

_RATE_WINDOW = 20.0  # seconds over which steps/s and time shares are averaged; one epoch if that is longer
_RECENT_EPISODES = 100
_MAX_HISTORY = 512  # even
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class TimeShares:
    """Where the wall time goes; the four add up to 1."""

    environment: float
    inference: float  # inference and storing
    training: float
    other: float


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """The last checkpoint of this process."""

    path: Path
    epoch: int
    agent_step: int


class _History:
    """Means of equal groups of consecutive values; the groups grow, so that a run of any length stays small."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self._group = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) < self._group:
            return
        self.means.append(sum(self._pending) / self._group)
        self._pending.clear()
        if len(self.means) == _MAX_HISTORY:
            self.means = [(first + second) / 2 for first, second in zip(self.means[::2], self.means[1::2], strict=True)]
            self._group *= 2


class RunView:
    """Follows one run; not thread-safe."""

    def __init__(self, header: RunHeader) -> None:
        self.header = header
        self.latest: EpochRecord | None = None
        self.checkpoint: SavedCheckpoint | None = None
        self.best_reward: float | None = None
        self.evaluation: EvaluationScores | None = None  # the last one
        self.best_evaluation: EvaluationScores | None = None  # of this process
        self._history = _History()
        self._window: deque[EpochRecord] = deque()
        self._episodes: deque[EpisodeRecord] = deque(maxlen=_RECENT_EPISODES)

    def add(self, record: EpochRecord) -> None:
        self.latest = record
        self._window.append(record)
        while len(self._window) > 1 and sum(r.timing.total for r in self._window) - self._window[0].timing.total >= (
            _RATE_WINDOW
        ):
            self._window.popleft()
        self._add_evaluation(record.evaluation)
        episodes = [episode for episode in record.rollout.episodes if not episode.shortened]
        self._episodes.extend(episodes)
        if episodes:
            reward = mean_reward(episodes)
            self._history.add(reward)
            self.best_reward = reward if self.best_reward is None else max(reward, self.best_reward)

    def _add_evaluation(self, scores: EvaluationScores | None) -> None:
        if scores is None or scores == self.evaluation:
            return
        self.evaluation = scores
        if self.best_evaluation is None or scores.score >= self.best_evaluation.score:
            self.best_evaluation = scores

    @property
    def rewards(self) -> Sequence[float]:
        """Mean rewards from the start of this process until now, in equal groups of epochs."""
        return self._history.means

    @property
    def agent_step(self) -> int:
        return self.latest.agent_step if self.latest else self.header.start_agent_step

    @property
    def epoch(self) -> int:
        return self.latest.epoch if self.latest else self.header.start_epoch

    @property
    def share_done(self) -> float:
        """0 to 1; the last rollout may overshoot, which still counts as 1."""
        return min(1.0, self.agent_step / self.header.total_timesteps)

    @property
    def steps_per_second(self) -> float | None:
        """Over the last 20 seconds or the last epoch, whichever is longer."""
        seconds = sum(record.timing.total for record in self._window)
        return sum(record.rollout.agent_steps for record in self._window) / seconds if seconds > 0.0 else None

    @property
    def seconds_left(self) -> float | None:
        rate = self.steps_per_second
        return max(0, self.header.total_timesteps - self.agent_step) / rate if rate else None

    @property
    def reward(self) -> float | None:
        """Mean over the last 100 comparable episodes; None before the first."""
        return mean_reward(self._episodes) if self._episodes else None

    @property
    def num_recent_episodes(self) -> int:
        return len(self._episodes)

    @property
    def time_shares(self) -> TimeShares | None:
        total = sum(record.timing.total for record in self._window)
        if total <= 0.0:
            return None
        environment = sum(record.timing.rollout_env for record in self._window) / total
        rollout = sum(record.timing.rollout for record in self._window) / total
        training = sum(record.timing.train for record in self._window) / total
        return TimeShares(
            environment=environment,
            inference=max(0.0, rollout - environment),
            training=training,
            other=max(0.0, 1.0 - rollout - training),
        )


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars from the lowest to the highest value; more values are averaged in equal groups."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [len(values) * index // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        return _SPARKS[0] * count
    return "".join(_SPARKS[round((mean - low) / (high - low) * (len(_SPARKS) - 1))] for mean in means)


def duration(seconds: float) -> str:
    """`7 s`, `4:05` (minutes), `3:04:05` (hours) or `2 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{hours // 24} d {hours % 24} h"


def number(value: float | None) -> str:
    """About four significant digits; "-" for None."""
    if value is None:
        return "-"
    size = abs(value)
    if size != 0.0 and not 1e-3 <= size < 1e6:
        return f"{value:.2e}"
    decimals = 4 if size < 10 else 3 if size < 100 else 1 if size < 1000 else 0
    return f"{value:.{decimals}f}"
