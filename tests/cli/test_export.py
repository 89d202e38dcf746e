"""`metta-export` as a user meets it, on runs that were really trained; bundles play in MettaGrid's own runner."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mettagrid import MettaGridConfig
from mettagrid.map_builder.ascii import AsciiMapBuilder
from mettagrid.policy.submission import SubmissionPolicySpec
from numpy.typing import NDArray

from metta_train.cli.eval import main as metta_eval
from metta_train.cli.export import main
from metta_train.envs.build import environment_spec
from metta_train.envs.config import MettaGridEnvConfig
from metta_train.envs.mettagrid import MAX_MAP_SEED, MAX_SIMULATOR_SEED, MettaGridEnvironment, _seeded, load_game
from metta_train.export.policy_file import read_document, read_policy
from metta_train.specs.random_streams import derived_seed
from metta_train.training import checkpoints
from tests.cli.command import REPOSITORY, Finished, run_program, run_python
from tests.export.random_steps import same_steps
from tests.fakes.run_folders import write_run

TRAIN = """
import sys
from metta_train import load_config, train
smoke = ["trainer=smoke", "trainer.optimizer.type=adam", "trainer.optimizer.learning_rate=2e-3"]
smoke += ["wandb=off", f"data_dir={sys.argv[1]}"]
forage = ["env.max_steps=20", "env.task.rooms=1"]
pole = ["agent=mlp", "env=gymnasium", "env.id=CartPole-v1", "trainer.total_timesteps=1000"]
for run in (["run=mine", *forage], ["run=sweep/0", "py_agent=fast", *forage], ["run=pole", *pole]):
    for _ in train(load_config([*smoke, *run])):
        pass
"""
BOLD = 2.0  # after so little training the best action is everywhere the same one; with larger weights it is not


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with the runs `mine`, `sweep/0` (py_agent) and `pole`."""
    data_dir = tmp_path_factory.mktemp("export") / "runs"
    done = run_program(["-c", TRAIN, str(data_dir)], data_dir.parent)
    assert done.code == 0, done.err
    for run in ("mine", "sweep/0"):
        saved = checkpoints.newest_good(data_dir / run / "checkpoints")
        assert saved is not None
        progress = replace(saved.state.progress, epoch=4, agent_step=3072)
        model = {name: tensor * (BOLD if "weight" in name else 1) for name, tensor in saved.model.items()}
        checkpoints.save(saved.path.parent, model, saved.optimizer, replace(saved.state, progress=progress))
    return data_dir


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """A folder with the bundles of both kinds of agents."""
    out = trained.parent / "out"
    out.mkdir()
    for run in ("mine", "sweep/0"):
        assert main([run, "--to", "mettagrid", "--out", str(out), "--data-dir", str(trained)]) == 0
    return out


def ran(capsys: pytest.CaptureFixture[str], trained: Path, *arguments: str | Path) -> Finished:
    code = main([*map(str, arguments), "--data-dir", str(trained)])
    out, err = capsys.readouterr()
    return Finished(code, out, err)


def told(capsys: pytest.CaptureFixture[str], trained: Path, *arguments: str | Path) -> dict[str, Any]:
    done = ran(capsys, trained, *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


class GreedyEpisode:
    """The first episode of `metta-eval --greedy`: its seed, every action, and the reward that it prints."""

    def __init__(self, trained: Path, run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.seeds: list[int] = []
        self.actions: list[int] = []
        reset, step = MettaGridEnvironment.reset, MettaGridEnvironment.step

        def noted_reset(env: MettaGridEnvironment, seed: int) -> None:
            self.seeds.append(seed)
            reset(env, seed)

        def noted_step(env: MettaGridEnvironment, actions: NDArray[np.int32]) -> None:
            self.actions += actions.tolist()
            step(env, actions)

        with monkeypatch.context() as patch:
            patch.setattr(MettaGridEnvironment, "reset", noted_reset)
            patch.setattr(MettaGridEnvironment, "step", noted_step)
            assert metta_eval([run, "--greedy", "--episodes", "1", "--json", "--data-dir", str(trained)]) == 0
        (evaluation,) = json.loads(capsys.readouterr().out)["evaluations"]
        self.reward: float = evaluation["episodes"][0]["reward"]
        assert self.seeds, "nobody played"
        self.length: int = evaluation["episodes"][0]["length"]


def on_the_map_of(config: MettaGridConfig, episode_seed: int) -> MettaGridConfig:
    """The game on the one map of an episode, drawn: the builder of our maps is not MettaGrid's."""
    builder = _seeded(config.game.map_builder, derived_seed(episode_seed, "map") % MAX_MAP_SEED).create()
    cells = builder.build_for_num_agents(config.game.num_agents).grid.tolist()
    signs = {name: chr(0x2460 + number) for number, name in enumerate(sorted({c for row in cells for c in row}))}
    drawn = AsciiMapBuilder.Config(
        map_data=[[signs[name] for name in row] for row in cells],
        char_to_map_name={sign: name for name, sign in signs.items()},
    )
    game = config.model_copy(deep=True)
    game.game.map_builder = drawn
    return game


@pytest.mark.parametrize(("run", "name"), [("mine", "mine"), ("sweep/0", "sweep-0")])
def test_a_bundle_plays_in_mettagrid_alone_as_metta_eval_does(
    trained: Path,
    exported: Path,
    run: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    episode = GreedyEpisode(trained, run, monkeypatch, capsys)
    config = read_document(exported / f"{name}:v4" / "weights.safetensors").config["env"]
    loaded = load_game(MettaGridEnvConfig.model_validate(config))
    (tmp_path / "game.json").write_text(on_the_map_of(loaded.config, episode.seeds[0]).model_dump_json())
    simulator_seed = derived_seed(episode.seeds[0], "simulator") % MAX_SIMULATOR_SEED
    script = REPOSITORY / "tests" / "export" / "play_bundle.py"
    bundles = [str(exported / f"{name}:v4"), str(exported / f"{name}:v4.zip")]
    arguments = [str(script), str(tmp_path / "game.json"), str(simulator_seed), str(tmp_path / "cache"), *bundles]
    done = run_python(arguments, tmp_path)
    assert done.code == 0, done.err
    wanted = [loaded.spec.actions.names[action] for action in episode.actions]
    wanted = wanted[: loaded.spec.num_agents * episode.length]
    assert len(set(wanted)) > 1, "an episode of one action proves little"
    for played in json.loads(done.out):
        assert played["actions"] == wanted
        assert played["steps"] == episode.length == 20
        assert np.mean(played["rewards"]) == pytest.approx(episode.reward)
        assert (played["timeouts"], played["class"]) == (0, "TrainedPolicy")


def test_mettagrid_reads_the_spec_of_a_bundle(exported: Path) -> None:
    spec = SubmissionPolicySpec.model_validate_json((exported / "mine:v4" / "policy_spec.json").read_text())
    assert spec.data_path == "weights.safetensors" and spec.init_kwargs == {"device": "cpu", "greedy": True}
    assert spec.policy_env_interface is not None and "move_north" in spec.policy_env_interface.action_names
    package, module, name = spec.class_path.split(".")
    assert (exported / "mine:v4" / package / f"{module}.py").is_file() and name == "TrainedPolicy"
    code = "".join(file.read_text() for file in (exported / "mine:v4" / package).glob("*.py"))
    assert "import metta_train" not in code and "from metta_train" not in code


@pytest.mark.parametrize("run", ["sweep/0", "pole"])
def test_an_onnx_model_and_a_weights_file_hold_the_policy_of_the_run(
    trained: Path, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    model = told(capsys, trained, run, "--to", "onnx", "--out", tmp_path / "a.onnx")
    weights = told(capsys, trained, run, "--to", "safetensors", "--out", tmp_path)
    assert model["files"] == [str(tmp_path / "a.onnx")] and 0 < model["largest_difference"] < 1e-5
    (file,) = (Path(name) for name in weights["files"])
    assert file == tmp_path / f"{run.replace('/', '-')}-{weights['agent_step']}.safetensors"
    policy = read_policy(file)
    saved = checkpoints.load(Path(weights["checkpoint"]))
    assert policy.state_dict().keys() == saved.model.keys()
    assert all(torch.equal(tensor, saved.model[name]) for name, tensor in policy.state_dict().items())
    document = read_document(file)
    assert document.spec == environment_spec(_env_config(document.config["env"]))
    assert (document.run, document.agent_step) == (run, weights["agent_step"])
    assert not {"data_dir", "wandb", "run"} & set(document.config), "places and accounts stay at home"
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def step(*tensors: torch.Tensor) -> list[torch.Tensor]:
        given = dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True))
        return [torch.from_numpy(result) for result in session.run(None, given)]

    assert same_steps(policy, step, rows=(1, 5)) < 1e-4


def _env_config(values: Any) -> Any:
    from pydantic import TypeAdapter

    from metta_train.envs.config import EnvConfig

    return TypeAdapter(EnvConfig).validate_python(values)


def test_the_same_export_is_the_same_bytes_and_may_be_written_again(
    trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (exported / "mine:v4.zip").read_bytes()
    done = ran(capsys, trained, "mine", "--to", "mettagrid", "--out", exported / "mine:v4")
    assert (done.code, done.err) == (0, "")
    assert (exported / "mine:v4.zip").read_bytes() == before
    done = ran(capsys, trained, "sweep/0", "--to", "mettagrid", "--out", exported / "mine:v4.zip")
    assert done.code == 2 and "MettaGrid would keep to the old one" in done.err
    assert (exported / "mine:v4.zip").read_bytes() == before


@pytest.mark.parametrize("columns", [80, 200])
def test_what_people_see(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    done = ran(capsys, trained, "pole:best", "--to", "safetensors")
    assert (done.code, done.err) == (0, "") and "\x1b" not in done.out
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("pole:") and "agent=mlp · CartPole-v1 · 2 actions" in lines[0]
    assert lines[1].split()[0] == "weights" and (tmp_path / lines[1].split()[1]).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mine"], 2, "--to"),
        (["mine", "--to", "onyx"], 2, "did you mean onnx?"),
        (["min", "--to", "onnx"], 2, "did you mean mine?"),
        (["mine:newest", "--to", "onnx"], 2, "mine:latest"),
        (["mine:2000", "--to", "safetensors"], 3, "the nearest is mine:2304"),
        (["empty", "--to", "safetensors"], 3, "no checkpoint yet"),
        (["pole", "--to", "mettagrid"], 2, "use --to onnx or --to safetensors"),
        (["mine", "--to", "safetensors", "--out", "/proc/nowhere/a"], 5, "could not write"),
    ],
)
def test_a_mistake_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    if not (trained / "empty").exists():
        write_run(trained, "empty", scores=())
    done = ran(capsys, trained, *arguments)
    assert done.code == code, done
    assert said in done.err and len(done.err.splitlines()) == 1 and done.out == ""


def test_a_folder_that_is_no_bundle_stays(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine:v4").mkdir()
    (tmp_path / "mine:v4" / "thesis.tex").write_text("years of work")
    done = ran(capsys, trained, "mine", "--to", "mettagrid", "--out", tmp_path)
    assert done.code == 2 and "is there already and is no bundle" in done.err
    assert (tmp_path / "mine:v4" / "thesis.tex").read_text() == "years of work"


def test_without_the_extra_one_line_names_it(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = ran(capsys, trained, "mine", "--to", "onnx")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "needs onnxruntime" in done.err and "pip install 'metta-train[onnx]'" in done.err


def test_the_program_itself(trained: Path, tmp_path: Path) -> None:
    program = ["-m", "metta_train.cli.export"]
    done = run_python([*program, "pole", "--to", "safetensors"], tmp_path, DATA_DIR=str(trained))
    assert (done.code, done.err) == (0, "")
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    script = "import sys; from metta_train.cli import export; export.main(['--help'])"
    done = run_python(
        ["-c", f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {script}"], tmp_path
    )
    assert "metta-export mine:best --to mettagrid" in done.out and done.out.endswith("False\n")


def test_the_programs_on_the_page_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/export.md; its commands are run by tests/test_docs.py."""
    for arguments in (["mettagrid", "--out", "exports/"], ["onnx", "--out", "exports/mine.onnx"]):
        arguments[-1] = f"{tmp_path}/{arguments[-1]}"
        assert ran(capsys, trained, "mine", "--to", *arguments).code == 0
    weights = tmp_path / "exports" / "mine.safetensors"
    assert ran(capsys, trained, "mine", "--to", "safetensors", "--out", weights).code == 0
    page = (REPOSITORY / "docs" / "export.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    cache = (
        "from pathlib import Path\nfrom mettagrid.policy import prepare_policy_spec\n"
        f"prepare_policy_spec.DEFAULT_POLICY_CACHE_DIR = Path({str(tmp_path / 'cache')!r})\n"
    )
    script = cache + "\n".join(programs).replace("env.max_steps=100", "env.max_steps=5")
    done = run_python(["-c", script], tmp_path)
    assert len(programs) == 3 and done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("5 steps, mean reward") and len(lines) == 6
    assert lines[4] == "agent=fast 3072 557378"
