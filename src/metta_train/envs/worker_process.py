"""The process of one env worker: it waits for a message, steps its envs in shared memory, and answers.

Nothing here imports torch, so a worker starts fast and stays small.
"""

from __future__ import annotations

import signal
import traceback
from mmap import mmap
from multiprocessing.connection import Connection

from metta_train.envs.child_process import STOP_SIGNALS, ChildFailed, inherited
from metta_train.envs.factory import environment_factory
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.shared_block import SharedBlock
from metta_train.envs.slot import EnvSlot
from metta_train.envs.worker_messages import (
    LoseEnvs,
    ResetEnvs,
    RestoreEnvs,
    SliceDone,
    StepEnvs,
    WorkerPlan,
    WorkerReady,
)


def main() -> None:
    """Serve until the trainer closes its end of the connection, or dies."""
    _leave_signals_to_the_trainer()
    connection, (memory,) = inherited()
    with Connection(connection) as trainer:
        try:
            _serve(trainer, SharedBlock.open(memory))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the trainer is done with us, or gone
        except Exception:  # whatever it is, the trainer shall show it
            trainer.send(ChildFailed(traceback.format_exc()))


def _leave_signals_to_the_trainer() -> None:
    # Handled by nothing, neither ignored nor blocked: programs that an environment starts would inherit that.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _serve(trainer: Connection, memory: mmap) -> None:
    plan = trainer.recv()
    assert isinstance(plan, WorkerPlan)
    spec, make_environment = environment_factory(plan.config)
    buffers = RowBuffers.over(memory, spec, plan.num_envs)
    slots = {
        env: EnvSlot(
            make_environment(),
            buffers.of_env(env),
            buffers.final_observations[buffers.env_rows(env)],
            slot=env,
            seed=plan.seed,
            rank=plan.rank,
            desync_episodes=plan.config.desync_episodes,
        )
        for envs in plan.envs
        for env in envs
    }
    trainer.send(WorkerReady(spec, can_replay=all(slot.can_replay for slot in slots.values())))
    while True:
        message = trainer.recv()
        episodes = []
        match message:
            case LoseEnvs():
                for env, episode, length in message.envs:
                    slots[env].lose(episode, length)
                continue
            case ResetEnvs():
                for env in plan.envs[message.slice_index]:
                    slots[env].reset()
            case RestoreEnvs():
                for point in message.points:
                    slots[point.env].restore(point.episode, point.actions)
            case StepEnvs():
                for env in plan.envs[message.slice_index]:
                    record = slots[env].step(buffers.actions[buffers.env_rows(env)])
                    if record is not None:
                        episodes.append(record)
        trainer.send(SliceDone(message.slice_index, tuple(episodes)))
