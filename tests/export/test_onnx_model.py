"""The ONNX model by itself: names, shapes, memory across steps, and what it says of itself."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from metta_train.export.comparison import checked_difference
from metta_train.export.mettagrid_bundle import load_step
from metta_train.export.network_source import network_source
from metta_train.export.onnx_model import OPSET, OnnxModel, onnx_model
from metta_train.export.policy_file import PolicyDocument, document_of
from metta_train.export.step_graph import NotExportableError, capture_step
from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig
from metta_train.policies.policy import Policy
from tests.export.random_steps import same_steps
from tests.export.test_policy_file import origin
from tests.export.test_step_graph import louder
from tests.policies.agents import ALL_AGENTS, build, spec_for, token_spec

WIDE = """
raw: {class: ObsTokenToBox, sources: [observations], nn_params: {normalize: false}}
box: {class: ObservationNormalizer, sources: [raw]}
cnn: {class: Conv2d, sources: [box], nn_params: {out_channels: 8, kernel_size: 3, padding: 1}, nonlinearity: nn.GELU}
pool: {class: MaxPool2d, sources: [cnn], nn_params: {kernel_size: 2}}
cells: {class: Flatten, sources: [pool]}
centre: {class: CenterPixel, sources: [cnn]}
all: {class: Concat, sources: [cells, centre]}
norm: {class: LayerNorm, sources: [all]}
fc: {class: Linear, sources: [norm], nn_params: {out_features: 32}, nonlinearity: nn.Mish}
core: {class: LSTM, sources: [fc], nn_params: {hidden_size: 16, num_layers: 1}}
deep: {class: LSTM, sources: [core], nn_params: {hidden_size: 24, num_layers: 3}}
part: {class: Linear, sources: [{name: deep, slice: [0, 8], dim: 1}], nn_params: {out_features: 8}}
value: {class: Linear, sources: [part], nn_params: {out_features: 1}, nonlinearity: null}
embeds: {class: ActionEmbedding, sources: [active_actions], nn_params: {embedding_dim: 16}}
actor: {class: Linear, sources: [deep], nn_params: {out_features: 64}, nonlinearity: nn.Softplus}
action: {class: MettaActorBig, sources: [actor, embeds], nn_params: {bilinear_output_dim: 4, mlp_hidden_dim: 16}}
"""

UNKNOWN_TO_ONNX = """
box: {class: ObsTokenToBox, sources: [observations]}
pool: {class: AdaptiveMaxPool2d, sources: [box], nn_params: {output_size: 2}}
cells: {class: Flatten, sources: [pool]}
value: {class: Linear, sources: [cells], nn_params: {out_features: 1}, nonlinearity: null}
action: {class: ActorLinear, sources: [cells, active_actions]}
"""


def graph_of(components: str) -> Policy:
    values = {"clip_range": 0, "analyze_weights_interval": 0, "components": yaml.safe_load(components)}
    return louder(build_policy_from(AgentConfig.model_validate(values), token_spec(categories={0: 4}), 3))


@cache
def exported(agent: str) -> tuple[Policy, PolicyDocument, OnnxModel]:
    policy = louder(build(agent, spec_for(agent)))
    document = document_of(policy, origin(agent), {})
    return policy, document, onnx_model(policy, capture_step(policy), document)


@pytest.mark.parametrize("agent", ALL_AGENTS)
def test_the_model_is_the_policy(agent: str, tmp_path: Path) -> None:
    policy, document, model = exported(agent)
    assert 0 < model.largest_difference < 1e-5

    (tmp_path / "model.onnx").write_bytes(model.content)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    state_names = [f"state_{number}" for number in range(len(policy.state_shapes))]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [value.name for value in inputs] == ["observations", "resets", *state_names] == list(model.inputs)
    assert [value.name for value in outputs] == ["logits", "values", *(f"next_{name}" for name in state_names)]
    assert {value.shape[0] for value in [*inputs, *outputs]} == {"rows"}
    assert [tuple(value.shape[1:]) for value in inputs[2:]] == list(policy.state_shapes)
    assert [tuple(value.shape[1:]) for value in outputs[2:]] == list(policy.state_shapes)

    def step(*tensors: Tensor) -> list[Tensor]:
        given = {value.name: tensor.numpy() for value, tensor in zip(inputs, tensors, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, given)]

    assert same_steps(policy, step) < 1e-5
    told = session.get_modelmeta().custom_metadata_map["metta_train"]
    assert json.loads(told) == json.loads(document.model_dump_json())
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == OPSET


def test_a_reset_row_forgets_and_the_others_do_not() -> None:
    _, _, model = exported("py_agent=fast")
    session = onnxruntime.InferenceSession(model.content, providers=["CPUExecutionProvider"])
    observations = np.zeros((2, *spec_for("py_agent=fast").observation.shape), np.uint8)

    def memory(value: float, resets: list[bool]) -> NDArray[np.float32]:
        state = np.full((2, 2, 128), value, np.float32)
        given = {"observations": observations, "resets": np.array(resets), "state_0": state, "state_1": state}
        (after,) = session.run(["next_state_0"], given)
        assert isinstance(after, np.ndarray)
        return after

    kept, reset, fresh = memory(0.5, [False, False]), memory(0.5, [True, False]), memory(0.0, [False, False])
    np.testing.assert_allclose(reset[0], fresh[0], atol=1e-6)
    np.testing.assert_allclose(reset[1], kept[1], atol=1e-6)
    assert np.abs(reset[0] - kept[0]).max() > 1e-3


def test_a_graph_of_many_components_is_exported_too() -> None:
    policy = graph_of(WIDE)
    program = capture_step(policy)
    assert checked_difference(policy, load_step(network_source(program, "t")), "the network") < 1e-5
    model = onnx_model(policy, program, document_of(policy, origin("agent=fast"), {}))
    assert model.largest_difference < 1e-5
    assert model.inputs == ("observations", "resets", "state_0", "state_1", "state_2", "state_3")


def test_what_onnx_lacks_is_named() -> None:
    policy = graph_of(UNKNOWN_TO_ONNX)
    program = capture_step(policy)
    assert checked_difference(policy, load_step(network_source(program, "t")), "the network") < 1e-5
    with pytest.raises(NotExportableError, match=r"nothing for aten\.adaptive_max_pool2d") as told:
        onnx_model(policy, program, document_of(policy, origin("agent=fast"), {}))
    assert "\n" not in str(told.value)
