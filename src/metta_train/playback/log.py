"""An episode as plain lines, where no terminal is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from metta_train.playback.look import shown
from metta_train.playback.moments import Cast, Moment
from metta_train.playback.screen import actions_told


def log_lines(cast: Cast, episode: int, moments: Iterable[Moment], agent: int | None) -> Iterator[str]:
    """A line for every step: what was earned, and what is done now; of all agents or of the one that is chosen."""
    yield f"{shown(cast.policy)} on {shown(cast.environment)}, episode {episode}, {cast.how}"
    yield f"{'step':>6}  {'reward':>8}  {'total':>8}  " + ("actions" if agent is None else f"agent {agent} does")
    last: Moment | None = None
    for moment in moments:
        last = moment
        if agent is None:
            earned, total, told = float(moment.rewards.mean()), moment.score, actions_told(moment, cast.actions)
        else:
            earned, total = float(moment.rewards[agent]), float(moment.totals[agent])
            told = _told_of(moment, cast, agent)
        yield f"{moment.step:>6}  {earned:>8.4f}  {total:>8.4f}  {told}".rstrip()
    if last is not None:
        yield summary(cast, episode, last)


def summary(cast: Cast, episode: int, last: Moment) -> str:
    """How an episode ended."""
    text = f"episode {episode}: {last.step} steps, reward {last.score:.4f}"
    if cast.num_agents > 1:
        best = int(last.totals.argmax())
        most = f"; most: agent {best}, {last.totals[best]:.4f}" if last.totals[best] > 0 else ""
        text += f" (mean of {cast.num_agents} agents{most})"
    return text


def _told_of(moment: Moment, cast: Cast, agent: int) -> str:
    decision = moment.decision
    if decision is None:
        return ""
    action = int(decision.actions[agent])
    text = shown(cast.actions[action])
    if decision.probabilities is not None:
        text += f"  {decision.probabilities[agent, action]:.1%}"
    if decision.values is not None:
        text += f"  value {decision.values[agent]:.4f}"
    return text
