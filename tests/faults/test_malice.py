"""F18, F19: what a run folder or a command line may try, and fuzz of the readers."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.records import Progress
from metta_train.training.checkpoint_files import (
    CONTENT_FILES,
    MANIFEST_FILE,
    CheckpointState,
    DamagedCheckpointError,
    IncompatibleCheckpointError,
)
from metta_train.training.checkpoints import load, save, summary, verify
from metta_train.training.run_paths import RunPaths
from metta_train.training.run_status import read_status
from metta_train.training.saved_config import read_config
from tests.cli.command import metta_train, run_python
from tests.cli.test_train import BAD as BAD_LINES
from tests.cli.test_train import BAD_NAMES
from tests.faults.conftest import Tally
from tests.faults.runs import CARTPOLE, newest, steps, train

SOURCES = Path(__file__).resolve().parents[2] / "src" / "metta_train"
SHORT = [*CARTPOLE, "trainer.total_timesteps=768"]
CANARY = "canary-4f7a91c2e8"
SECRETS = {
    "MY_SERVICE_TOKEN": f"{CANARY}-token",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
    "DATABASE_PASSWORD": f"{CANARY}-password",
}

FORBIDDEN = (
    r"torch\.load\(",
    r"\bpickle\b",
    r"yaml\.(unsafe_)?load\(",
    r"weights_only",
    r"(?<![\w.])eval\(",
    r"(?<![\w.])exec\(",
    r"shell=True",
    r"os\.system\(",
    r"_target_\b",
    r"\binstantiate\(",
    r"__reduce__",
)
# Words about pickles, not uses of them; and calls of methods of that name.
HARMLESS = ("unpickled", "--trust-pickle", "reads a pickle", "minibatch_target_size", ".eval()")


@pytest.mark.fault("F19 no dangerous readers in the sources")
def test_the_sources_hold_nothing_that_runs_what_it_reads() -> None:
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if any(re.search(pattern, line) for pattern in FORBIDDEN) and not any(word in line for word in HARMLESS):
                found.append(f"{path.relative_to(SOURCES)}:{number}: {line.strip()}")
    # An import of an old file happens in a process of its own, and only when --trust-pickle says so.
    assert [line for line in found if not line.startswith(("cli/import_legacy", "cli/legacy"))] == []


@pytest.mark.fault("F19 secrets")
def test_no_secret_reaches_a_file_or_the_terminal(tmp_path: Path) -> None:
    arguments = [
        *SHORT,
        "run=quiet",
        "wandb=offline",
        f"wandb.notes='see https://user:{CANARY}-url@example.org/x'",
        f"wandb.tags=[a,'{CANARY}-token']",
    ]
    for extra in ([], ["trainer.total_timesteps=1024"], [f"trainer.optimzer.token={CANARY}-argument"]):
        ended = train(tmp_path, *arguments, *extra, environ=SECRETS)
        assert ended.code == (2 if "optimzer" in str(extra) else 0), ended.err
        assert CANARY not in ended.out + ended.err
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []


class _Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


@pytest.mark.fault("F19 planted in a run folder")
def test_nothing_in_a_run_folder_is_run_or_resolved(tmp_path: Path) -> None:
    assert train(tmp_path, *SHORT, "run=a").code == 0
    folder = tmp_path / "a"
    before = steps(tmp_path, "a")
    config = folder / "config.yaml"
    config.write_text(
        config.read_text()
        + "planted:\n  _target_: os.system\n  command: touch owned\n  key: ${oc.env:MY_SERVICE_TOKEN}\n"
    )
    stream = io.BytesIO()
    torch.save({"weights": _Planted()}, stream)
    (folder / "trainer_state.pt").write_bytes(stream.getvalue())
    (folder / "checkpoints" / "model_0001.pt").write_bytes(pickle.dumps(_Planted()))
    (newest(tmp_path, "a") / "extra.pkl").write_bytes(pickle.dumps(_Planted()))
    link = folder / "checkpoints" / "step-000999999999"
    link.symlink_to(newest(tmp_path, "a"))
    again = train(tmp_path, *SHORT, "run=a", "trainer.total_timesteps=1024", environ=SECRETS)
    assert again.code == 0, again.err
    assert CANARY not in again.out + again.err + config.read_text()
    assert not list(tmp_path.rglob("owned"))
    assert steps(tmp_path, "a")[-1] == 1024 and set(steps(tmp_path, "a")) >= set(before)
    # A pickle in the place of the weights.
    (newest(tmp_path, "a") / "model.safetensors").write_bytes(stream.getvalue())
    refused = train(tmp_path, *SHORT, "run=a", "trainer.total_timesteps=1024")
    assert refused.code == 0 and "checkpoint is damaged" in refused.err, refused.err
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.fault("F19 planted in an old .pt file")
@pytest.mark.parametrize("trust", [[], ["--trust-pickle"]])
def test_an_old_file_runs_nothing_even_when_it_is_trusted(tmp_path: Path, trust: list[str]) -> None:
    torch.save({"weights": {"a": torch.zeros(1)}, "planted": _Planted()}, tmp_path / "model.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Planted()))
    for name in ("model.pt", "bare.pt"):
        arguments = ["import-legacy", name, "agent=mlp", "env=gymnasium", "env.id=CartPole-v1", "--run", "x", *trust]
        done = run_python(["-m", "metta_train.cli.runs", *arguments], tmp_path)
        assert done.code == 2 and done.err.count("\n") == 1, done
        assert ("does not fit" in done.err or "no file of torch.save" in done.err) if trust else "trust" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.pt", "model.pt"]


# ----- fuzz: whatever the bytes, a reader returns or raises what it promises


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = CheckpointState(
        Progress(epoch=2, agent_step=64),
        action_names=("a", "b"),
        metadata={"score": 0.5},
        random_states={"sampling": torch.zeros(16, dtype=torch.uint8)},
        tensors={"envs/actions": torch.zeros(3, 2, dtype=torch.uint8)},
    )
    model = {"weight": torch.arange(6.0).reshape(2, 3)}
    return save(tmp_path_factory.mktemp("fuzz") / "c", model, {"weight/exp_avg": torch.ones(2, 3)}, state)


@pytest.mark.fault("F19 fuzz of checkpoints")
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from((*CONTENT_FILES, MANIFEST_FILE)), data=st.data())
def test_no_bytes_get_through_the_reader_of_checkpoints(checkpoint: Path, name: str, data: st.DataObject) -> None:
    original = (checkpoint / name).read_bytes()
    content = bytearray(original)
    kind = data.draw(st.sampled_from(("flip", "insert", "delete", "anything")))
    place = data.draw(st.integers(0, len(content) - 1))
    match kind:
        case "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        case "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
        case "delete":
            del content[place : place + data.draw(st.integers(1, 40))]
        case "anything":
            content = bytearray(data.draw(st.binary(max_size=200)))
    if bytes(content) == original:
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / checkpoint.name
        shutil.copytree(checkpoint, copy)
        (copy / name).write_bytes(content)
        for read in (load, verify):
            with pytest.raises((DamagedCheckpointError, IncompatibleCheckpointError)):
                read(copy)
        with suppress(DamagedCheckpointError, IncompatibleCheckpointError):
            summary(copy)  # reads the small files only


@pytest.mark.slow
@pytest.mark.fault("F18 bad values on the command line")
def test_no_bad_value_starts_a_run(tmp_path: Path, tally: Tally) -> None:
    given_lines = [*BAD_LINES, *BAD_NAMES]
    assert len(given_lines) >= 60
    outside = tmp_path / "outside"
    outside.mkdir()
    for line in given_lines:
        done = metta_train(*line.split(), folder=outside)
        assert done.code == 2, (line, done)
        assert done.out == "" and done.err.count("\n") == 1, (line, done)
        assert list(outside.iterdir()) == [], line
        tally.add(survived=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.fault("F18 fuzz of configurations")
@settings(max_examples=200)
@given(VALUES, st.sampled_from(["run", "seed", "trainer", "env", "agent", "wandb", "device", "restart", "data_dir"]))
def test_no_values_get_through_the_configuration_but_valid_ones(value: object, key: str) -> None:
    try:
        RunConfig.from_tree({key: value}, "agent=fast")
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.fault("F19 fuzz of saved configurations")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | VALUES.map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_get_through_the_readers_of_a_run_folder(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths.locate(Path(folder), "a")
        paths.folder.mkdir()
        paths.config.write_bytes(content)
        paths.status.write_bytes(content)
        try:
            assert isinstance(read_config(paths), dict)
        except ValueError as error:
            assert "config.yaml" in str(error)
        read_status(paths)
