"""The graph of a step as an ONNX model, checked in onnxruntime. The only file that knows ONNX (extra `onnx`)."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import functional

from metta_train.export.comparison import StepFunction, checked_difference
from metta_train.export.policy_file import KEY, PolicyDocument
from metta_train.export.step_graph import NotExportableError
from metta_train.policies.policy import Policy
from metta_train.specs.config_errors import ConfigError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # the extra `onnx`
OPSET = 18  # the first with a scatter that takes the largest value


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A model file in memory.

    Attributes:
        content: of the file.
        inputs: their names.
        outputs: their names.
        largest_difference: to the policy, over several steps in onnxruntime.
    """

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    largest_difference: float


def check_onnx_is_installed() -> None:
    """Raises ConfigError, naming the extra, when a package of it is missing."""
    for package in PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"--to onnx needs {package}, which is not installed ({error}): pip install 'metta-train[onnx]'"
            ) from error


def onnx_model(policy: Policy, program: ExportedProgram, document: PolicyDocument) -> OnnxModel:
    """Turn a graph of `step_graph.py` into ONNX.

    Inputs: `observations`, `resets`, `state_0`, ...; outputs: `logits`, `values`, `next_state_0`, ... The first
    dimension of all of them is `rows`. The document lies in the model's metadata under `metta_train`.

    Raises:
        NotExportableError: an operation that ONNX lacks, or a model that computes something else.
    """
    import onnx

    numbers = range(len(document.state_shapes))
    inputs = ["observations", "resets", *(f"state_{number}" for number in numbers)]
    outputs = ["logits", "values", *(f"next_state_{number}" for number in numbers)]
    try:
        with _quiet():
            # The exporter of torch 2.9 gives the state of an LSTM with several layers a wrong shape, so it gets gates.
            plain = program.run_decompositions({torch.ops.aten.lstm.input: _lstm_step})
            converted = torch.onnx.export(
                plain,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except RuntimeError as error:
        raise NotExportableError(f"ONNX cannot hold this agent: {_reason(str(error))}") from error
    assert converted is not None
    model = converted.model_proto
    del model.graph.value_info[:]  # shapes in between, with names of torch's own for the rows
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, document.model_dump_json()
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    difference = checked_difference(policy, _session_step(content, inputs), "the ONNX model")
    return OnnxModel(content, tuple(inputs), tuple(outputs), difference)


def _reason(message: str) -> str:
    """Of what torch's exporter says on a page."""
    operation = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", message)
    if operation:
        return f"torch's exporter has nothing for {operation[1]}; --to mettagrid and --to safetensors need no ONNX"
    return message.strip().splitlines()[-1]


def _lstm_step(
    inputs: Tensor,
    state: list[Tensor],
    parameters: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of torch's LSTM in gates; its signature is that of `aten.lstm.input`."""
    assert has_biases and batch_first and not bidirectional and inputs.shape[1] == 1
    x = inputs.squeeze(1)
    hidden_after, cell_after = [], []
    for layer in range(num_layers):
        weight_ih, weight_hh, bias_ih, bias_hh = parameters[4 * layer : 4 * layer + 4]
        gates = functional.linear(x, weight_ih, bias_ih) + functional.linear(state[0][layer], weight_hh, bias_hh)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * state[1][layer] + torch.sigmoid(input_gate) * torch.tanh(candidate)
        x = torch.sigmoid(output_gate) * torch.tanh(cell)
        hidden_after.append(x)
        cell_after.append(cell)
    return x.unsqueeze(1), torch.stack(hidden_after), torch.stack(cell_after)


def _session_step(content: bytes, inputs: list[str]) -> StepFunction:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def step(observations: Tensor, resets: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, (tensor.numpy() for tensor in (observations, resets, *state)), strict=True))
        return tuple(torch.from_numpy(result) for result in session.run(None, given))

    return step


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its inner life; what matters is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
