"""The process of one learner: it waits for a message, takes its share of a minibatch through the network, answers."""

from __future__ import annotations

import traceback
from multiprocessing.connection import Connection

import torch

from metta_train.envs.child_process import ChildFailed, arrives_soon, inherited
from metta_train.envs.shared_block import SharedBlock
from metta_train.policies.held_signals import hold_signals
from metta_train.training.learners.learner_memory import LearnerMemory, move_weights
from metta_train.training.learners.messages import (
    Backward,
    Differentiated,
    Evaluated,
    Forward,
    LearnerPlan,
    Ready,
)
from metta_train.training.learners.network_pass import OwnPass, answers_of
from metta_train.training.memory import memory_exhausted
from metta_train.training.torch_settings import set_up_torch


def main() -> None:
    """Serve until the trainer closes its end of the connection, or dies."""
    hold_signals()  # Ctrl-C and the requests of a batch system are the trainer's to handle
    connection, blocks = inherited()
    with Connection(connection) as trainer:
        try:
            _serve(trainer, *blocks)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the trainer is done with us, or gone
        except Exception as error:  # whatever it is, the trainer shall show it
            trainer.send(ChildFailed(traceback.format_exc(), memory_exhausted(error)))


def _serve(trainer: Connection, weights_block: int, share_block: int) -> None:
    plan = trainer.recv()
    assert isinstance(plan, LearnerPlan)
    set_up_torch(deterministic=plan.deterministic)
    torch.set_flush_denormal(True)  # as gradient steps do (`precision.denormals_flushed`), and always
    policy = plan.recipe()
    trainer.send(Ready(tuple((name, tuple(p.shape)) for name, p in policy.named_parameters())))
    move_weights(policy, SharedBlock.open(weights_block), fill=False)
    share = LearnerMemory.over(SharedBlock.open(share_block), policy, plan.segments, plan.horizon)
    network = OwnPass(policy, plan.precision, plan.piece_segments)
    while True:
        match trainer.recv():
            case Forward():
                evaluation = network.forward(share.inputs)
                for place, answer in zip(answers_of(share.evaluation), answers_of(evaluation), strict=True):
                    place.copy_(answer)
                trainer.send(Evaluated())
                # Losses take less than a millisecond. The optimizer takes longer, and perhaps this core.
                arrives_soon(trainer)
            case Backward():
                trainer.send(Differentiated(tuple(network.backward(share.grads, share.gradients))))
