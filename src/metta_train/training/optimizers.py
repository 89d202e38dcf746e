"""Adam or Muon over the parameters of a policy, with a state that is a flat dictionary of named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metta_train.training.config import OptimizerConfig
from metta_train.training.muon import Muon
from metta_train.training.optimizer_threads import ONE_THREAD, OptimizerThreads

_ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")
_MUON_STATE = ("momentum_buffer",)
_NAMED_DIFFERENCES = 8


def build_optimizer(config: OptimizerConfig, policy: nn.Module, precision: str = "fp32") -> PolicyOptimizer:
    """The optimizer of all parameters of `policy` that need a gradient.

    Build it when the policy is on its device. `adam` is torch.optim.Adam over everything: its weight decay is the
    coupled L2 penalty. `muon` is `muon.py` over the hidden matrices (`hidden_matrices`) and torch.optim.AdamW over the
    rest: their weight decay is decoupled. Muon's momentum is `beta1`; its updates are as large as AdamW's, so that one
    learning rate serves both. `precision` is that of the plan; Muon's products take place in it where the CPU can.
    """
    parameters = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    betas = (config.beta1, config.beta2)
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters.values())
    if config.type == "adam":
        adam = torch.optim.Adam(
            parameters.values(),
            lr=config.learning_rate,
            betas=betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=fused,
        )
        return PolicyOptimizer([(adam, parameters, _ADAM_STATE)])

    hidden = {name: parameters[name] for name in hidden_matrices(policy) if name in parameters}
    rest = {name: p for name, p in parameters.items() if name not in hidden}
    parts: list[tuple[torch.optim.Optimizer, Mapping[str, nn.Parameter], tuple[str, ...]]] = []
    if hidden:
        muon = Muon(
            hidden.values(),
            lr=config.learning_rate,
            momentum=config.beta1,
            weight_decay=config.weight_decay,
            bfloat16=precision == "bf16",
        )
        parts.append((muon, hidden, _MUON_STATE))
    if rest:
        adamw = torch.optim.AdamW(
            rest.values(),
            lr=config.learning_rate,
            betas=betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=fused,
        )
        parts.append((adamw, rest, _ADAM_STATE))
    return PolicyOptimizer(parts)


def hidden_matrices(policy: nn.Module) -> tuple[str, ...]:
    """Canonical names of the parameters that Muon trains.

    Muon orthogonalises the update of a matrix between hidden layers. Embeddings, biases, gains and output layers keep
    AdamW (https://kellerjordan.github.io/posts/muon/, "When training a neural network with Muon"), and so do
    convolution filters and other parameters that are no matrix, which torch.optim.Muon refuses. An output layer is
    known here by its single row, as in a value head; a layer of several logits counts as hidden. The gates of an LSTM
    are one matrix.
    """
    embeddings = {
        f"{name}.weight" if name else "weight"
        for name, module in policy.named_modules()
        if isinstance(module, nn.Embedding)
    }
    return tuple(
        name
        for name, parameter in policy.named_parameters()
        if parameter.dim() == 2 and min(parameter.shape) > 1 and name not in embeddings
    )


class PolicyOptimizer:
    """One or two torch optimizers that step together.

    State exists from the start, as zeros, so that every state of one policy and one optimizer type has the same names,
    shapes and dtypes.

    Args:
        parts: optimizer, its parameters by canonical name, and the names of its state tensors per parameter.
    """

    def __init__(
        self, parts: Sequence[tuple[torch.optim.Optimizer, Mapping[str, nn.Parameter], tuple[str, ...]]]
    ) -> None:
        assert parts, "a policy without parameters cannot be trained"
        self._optimizers = tuple(optimizer for optimizer, _, _ in parts)
        self._state: dict[str, Tensor] = {}
        for optimizer, parameters, names in parts:
            for parameter_name, parameter in parameters.items():
                for name in names:
                    tensor = _zero_state(name, parameter, scalar_on_device=optimizer.defaults.get("fused", False))
                    optimizer.state[parameter][name] = tensor
                    self._state[f"{parameter_name}/{name}"] = tensor

    def step(self, leave_out: Tensor | None = None, threads: OptimizerThreads = ONE_THREAD) -> None:
        """Move every parameter that has a gradient.

        Args:
            leave_out: bool scalar on the device: true means that nothing moves and no state changes. That is decided
                on the device, where torch has fused kernels for it (CPU and CUDA).
            threads: share Muon's matrices.
        """
        for optimizer in self._optimizers:
            if isinstance(optimizer, Muon):
                optimizer.step(leave_out=leave_out, threads=threads)
            elif leave_out is None:
                optimizer.step()
            elif optimizer.defaults["fused"]:
                # What torch.amp.GradScaler sets; the fused kernels read it.
                optimizer.found_inf = leave_out.float()  # pyright: ignore[reportAttributeAccessIssue]
                optimizer.step()
                del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
            elif not bool(leave_out):
                optimizer.step()

    def set_learning_rate(self, learning_rate: float) -> None:
        """For all parameters, from the next step on."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state, `"<canonical parameter>/<exp_avg|exp_avg_sq|step|momentum_buffer>"` -> tensor.

        The next step writes into these tensors. Learning rate and coefficients are not in it: they follow the config.
        """
        return dict(self._state)

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state from `state_tensors`, from any device; nothing changes if it does not fit.

        Raises:
            ValueError: a name, shape or dtype differs from those of this policy and optimizer type.
        """
        differences = [f"{name} is missing" for name in sorted(self._state.keys() - tensors.keys())]
        differences += [f"{name} is not expected" for name in sorted(tensors.keys() - self._state.keys())]
        for name in sorted(self._state.keys() & tensors.keys()):
            got, needed = tensors[name], self._state[name]
            if got.shape != needed.shape:
                differences.append(f"{name} has shape {list(got.shape)}, needs {list(needed.shape)}")
            elif got.dtype != needed.dtype:
                differences.append(f"{name} has dtype {got.dtype}, needs {needed.dtype}")
        if differences:
            more = len(differences) - _NAMED_DIFFERENCES
            raise ValueError(
                "the saved optimizer state does not fit this policy and trainer.optimizer.type: "
                + "; ".join(differences[:_NAMED_DIFFERENCES])
                + (f"; and {more} more" if more > 0 else "")
                + ". Use the agent, env and optimizer type that it was saved with, or start a new run from the weights "
                "alone (trainer.initial_policy.uri)."
            )
        for name, tensor in self._state.items():
            tensor.copy_(tensors[name])


def _zero_state(name: str, parameter: nn.Parameter, *, scalar_on_device: bool) -> Tensor:
    if name == "step":
        # As torch creates it: float32, beside the parameter only if the fused kernel reads it.
        return torch.zeros((), dtype=torch.float32, device=parameter.device if scalar_on_device else "cpu")
    return torch.zeros_like(parameter, requires_grad=False)
