from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metta_train import build_policy, load_config
from metta_train.cli import runs
from metta_train.cli.legacy_pickle import Inert, UnreadableError, read
from metta_train.envs.build import environment_spec
from metta_train.policies.policy import Policy
from metta_train.training.checkpoints import load
from tests.cli.command import REPOSITORY, run_python

AGENT = ["agent=fast", "trainer=smoke", "wandb=off"]


@pytest.fixture(scope="module")
def policy() -> Policy:
    config = load_config([*AGENT, "run=x", "seed=11"])
    return build_policy(config, environment_spec(config.env))


class OldPart(nn.Module):
    """A component of the original: its network lies below `_net`."""

    def __init__(self, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._net = nn.Module()
        for name, value in parameters.items():
            self._net.register_parameter(name, nn.Parameter(value.clone()))
        self.register_buffer("initial_weights", torch.ones(3))


class OldAgent(nn.Module):
    """Its components, by the original's names."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        old = {"core": "_core_", "value": "_value_", "action_embeds": "_action_embeds_", "action": "_action_"}
        components: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in weights.items():
            part, _, leaf = name.rpartition(".")
            leaf = "W" if name == "action.weight" else leaf
            components.setdefault(old.get(part, part), {})[leaf] = value
        self.components = nn.ModuleDict({name: OldPart(parameters) for name, parameters in components.items()})
        self.register_buffer("active_indices", torch.arange(5))


class OldRecord:
    """What the original pickled: a record with the policy and other things in it."""

    def __init__(self, policy: nn.Module) -> None:
        self.metadata = {"agent_step": 5000, "epoch": 10}
        self.cached_policy = policy
        self.small = {"a": torch.zeros(2)}


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def imported(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = runs.main(["import-legacy", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_pickled_policy_becomes_a_run_that_can_be_evaluated_and_trained_on(tmp_path: Path, policy: Policy) -> None:
    file = saved(tmp_path / "model_0010.pt", OldRecord(OldAgent(policy.state_dict())))
    done = run_python(
        ["-m", "metta_train.cli.runs", "import-legacy", str(file), *AGENT, "--run", "old", "--trust-pickle"], tmp_path
    )
    assert done.code == 0, done.err
    assert done.out.startswith("old: 25 tensors, 557,378 weights") and "(cached_policy)" in done.out
    folder = tmp_path / "train_dir" / "old"
    checkpoint = load(folder / "checkpoints" / "step-000000000000")
    assert all(torch.equal(checkpoint.model[name], tensor) for name, tensor in policy.state_dict().items())
    assert checkpoint.state.metadata["imported_from"] == "model_0010.pt"
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    uri = f"trainer.initial_policy.uri=file://{checkpoint.path}"
    trained = run_python(["-m", "metta_train", *AGENT, "run=on", uri, "trainer.total_timesteps=768"], tmp_path)
    assert trained.code == 0, trained.err


def test_a_state_dict_with_other_names_needs_them_told(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = dict(policy.state_dict())
    weights["policy.first"] = weights.pop("cnn1.weight")
    weights["policy.obs_norm"] = torch.ones(7)
    file = saved(tmp_path / "a.pt", {"epoch": 3, "weights": OrderedDict(weights)})
    options = [file, *AGENT, "--run", "a", "--data-dir", tmp_path, "--trust-pickle"]
    code, out, err = imported(capsys, *options)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"cnn1.weight {list(policy.state_dict()['cnn1.weight'].shape)} is missing there" in err
    assert "policy.obs_norm [7] is unknown here" in err
    assert not (tmp_path / "a").exists()
    more = ["--rename", "policy.first=cnn1.weight", "--leave-out", "*.obs_norm", "--first-action-row", 0]
    code, out, err = imported(capsys, *options, *more)
    assert code == 0, err
    model = load(tmp_path / "a" / "checkpoints" / "step-000000000000").model
    assert torch.equal(model["cnn1.weight"], weights["policy.first"])
    assert torch.equal(model["action_embeds.weight"][1:], weights["action_embeds.weight"][:-1])
    code, _, err = imported(capsys, *options, *more)
    assert code == 2 and "exists; use another --run" in err


def test_other_shapes_are_refused_with_the_differences(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: tensor for name, tensor in policy.state_dict().items() if name != "value.bias"}
    weights["fc1.weight"] = torch.zeros(128, 999)
    file = saved(tmp_path / "a.pt", weights)
    code, _, err = imported(capsys, file, *AGENT, "--run", "a", "--data-dir", tmp_path, "--trust-pickle")
    assert code == 2 and err.count("\n") == 1
    assert "does not fit agent=fast on forage: " in err
    assert "fc1.weight is [128, 64] here, and [128, 999] there as fc1.weight" in err
    assert "value.bias [1] is missing there" in err
    assert not (tmp_path / "a").exists()


def test_without_trust_nothing_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = imported(capsys, tmp_path / "missing.pt", *AGENT, "--run", "a", "--data-dir", tmp_path)
    assert code == 2
    assert err.endswith(
        "missing.pt: a .pt file is a pickle, which can run programs when it is read; if you know where it comes from, "
        "add --trust-pickle. Nothing was read.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.pt"], "missing.pt: no such file"),
        (["missing.pt", "--rename", "x"], "--rename x: needs OLD=NEW"),
        (["missing.pt", "agent=fats"], "agent=fats: needs one of"),
        (["missing.pt", "run=b"], "run=...: here it is --run"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, _, err = imported(capsys, *arguments, "--run", "a", "--data-dir", tmp_path, "--trust-pickle")
    assert code == 2 and words in err and err.count("\n") == 1


# ----- the reader


class Planted:
    """Runs a program when it is unpickled by an ordinary reader."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_nothing_in_a_file_is_called(tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "owned"
    planted = Planted(canary)
    file = saved(tmp_path / "a.pt", {"planted": planted, "weights": policy.state_dict()})
    code, _, err = imported(capsys, file, *AGENT, "--run", "a", "--data-dir", tmp_path, "--trust-pickle")
    assert code == 0, err
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 torn", b"\x80\x02cos\nsystem\nq\x00."])
def test_other_files_are_refused(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"it is no file of torch\.save"):
        read(file)


def rewritten(path: Path, target: Path, pickle: bytes | None) -> Path:
    """The same archive with other bytes for its pickle, or without its storages."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name.endswith("data.pkl"):
                new.writestr(name, old.read(name) if pickle is None else pickle)
            elif pickle is not None:
                new.writestr(name, old.read(name))
    return target


def test_tensors_beyond_their_storages_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", {"a": torch.arange(6.0)})
    with zipfile.ZipFile(file) as archive:
        original = archive.read("a/data.pkl")
    assert original.count(b"K\x06\x85") == 1  # the shape (6,)
    larger = rewritten(file, tmp_path / "b.pt", original.replace(b"K\x06\x85", b"K\x07\x85"))
    with pytest.raises(UnreadableError, match="larger than its storage"):
        read(larger)
    with pytest.raises(UnreadableError, match=r"its storage '0' is missing"):
        read(rewritten(file, tmp_path / "c.pt", None))
    assert torch.equal(read(file).tensors["a"], torch.arange(6.0))


def test_views_types_and_empty_tensors_arrive_as_they_are(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    given = {
        "transposed": whole.t(),
        "part": whole[1:, 2:],
        "half": whole.half(),
        "bfloat": whole.bfloat16(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "empty": torch.empty(0, 3),
        "number": torch.tensor(3),
    }
    found = read(saved(tmp_path / "a.pt", given)).tensors
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {n: (t.dtype, t.shape) for n, t in given.items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_the_largest_group_is_taken_and_cycles_end(tmp_path: Path) -> None:
    small, large = {"a": torch.zeros(2)}, {"a": torch.zeros(9), "b": torch.zeros(1)}
    ring: list[Any] = [small, {"inner": {"model": large, "step": 4}}]
    ring.append(ring)
    found = read(saved(tmp_path / "a.pt", ring))
    assert (found.place, set(found.tensors)) == ("inner.model", {"a", "b"})
    with pytest.raises(UnreadableError, match="no named tensors"):
        read(saved(tmp_path / "b.pt", [1, "two", Inert()]))


def test_the_process_that_reads_has_no_network_no_children_and_no_secrets(tmp_path: Path) -> None:
    code = (
        "import os, socket, subprocess, sys\n"
        "from pathlib import Path\n"
        "from metta_train.cli.legacy_pickle import confine\n"
        "confine(Path(sys.argv[1]) / 'out')\n"
        "def refused(action):\n"
        "    try:\n"
        "        action()\n"
        "    except (PermissionError, MemoryError):\n"
        "        return True\n"
        "    return False\n"
        "print([refused(a) for a in (\n"
        "    lambda: socket.socket(),\n"
        "    lambda: socket.create_connection(('127.0.0.1', 9)),\n"
        "    lambda: subprocess.run(['true']),\n"
        "    lambda: os.system('true'),\n"
        "    lambda: os.fork(),\n"
        "    lambda: open(sys.argv[1] + '/else', 'w'),\n"
        "    lambda: bytearray(1 << 34),\n"
        ")])\n"
        "open(sys.argv[1] + '/out', 'w').close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"PYTHONPATH": str(REPOSITORY / "src"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{[True] * 7}\n", done
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_damaged_pickle_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "a.pt", {"a": torch.zeros(1)})
    damaged = rewritten(file, tmp_path / "b.pt", b"\x80\x02}q\x00(X\x01")
    code, _, err = imported(capsys, damaged, *AGENT, "--run", "a", "--data-dir", tmp_path, "--trust-pickle")
    assert code == 2 and "its pickle is damaged" in err and "Traceback" not in err
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream, _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(stream.getvalue())
    code, _, err = imported(capsys, tmp_path / "c.pt", *AGENT, "--run", "a", "--data-dir", tmp_path, "--trust-pickle")
    assert code == 2 and "no file of torch.save of PyTorch 1.6 or newer" in err
