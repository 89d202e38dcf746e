from __future__ import annotations

from pathlib import Path

import pytest

from metta_train.cli import train
from metta_train.cli.exit_codes import BAD_USAGE, DONE, INTERRUPTED
from metta_train.run_config import RunConfig
from tests.cli.command import metta_train, run_python

HEAVY = "{'torch', 'mettagrid', 'wandb', 'gymnasium', 'pufferlib', 'rich'}"

# A command line, and the line that it must earn. Every one of them is exit code 2 and writes nothing.
BAD = {
    # groups and their choices
    "agent=fats": "agent=fats: needs one of fast, mlp; did you mean fast?",
    "agnet=fast": "agnet=fast: unknown key; did you mean agent?",
    "py_agent=fats": "py_agent=fats: needs one of fast, none; did you mean fast?",
    "py_agent=null": "py_agent=null: needs one of fast, none",
    "trainer=": "trainer=: needs one of gpu, laptop, smoke",
    "trainer=3": "trainer=3: needs one of gpu, laptop, smoke",
    "wandb=of": "wandb=of: needs one of auto, off, offline, online; did you mean off?",
    "experiment=origin": "experiment=origin: needs one of none, original; did you mean original?",
    "+experiment=x": "experiment=x: needs one of none, original",
    "agent=[fast,mlp]": "agent=[fast,mlp]: needs one choice, got a list",
    "agent=fast py_agent=fast": "agent=fast py_agent=fast: both name the policy; leave one of them out",
    "~agent": "~agent: a run needs a choice for each group; agent has fast, mlp",
    "agent.clip_range=1 py_agent=fast": (
        "agent.clip_range=1: py_agent=fast is chosen, so agent has no keys; did you mean py_agent.clip_range?"
    ),
    "py_agent.core.bias_init=ones": (
        "py_agent.core.bias_init=ones: agent=fast is chosen, so py_agent has no keys; "
        "did you mean agent.components.core.bias_init?"
    ),
    # keys
    "trainer.optimzer.learning_rate=1": (
        "trainer.optimzer.learning_rate=1: unknown key; did you mean trainer.optimizer.learning_rate?"
    ),
    "trainer.learning_rate=1": "trainer.learning_rate=1: unknown key; did you mean trainer.optimizer.learning_rate?",
    "trainer.optimizer.lr=1": (
        "trainer.optimizer.lr=1: unknown key; known are type, learning_rate, beta1, beta2, eps, weight_decay"
    ),
    "+typo=1": (
        "typo=1: unknown key; known are run, restart, data_dir, seed, device, torch_deterministic, agent, py_agent, "
        "env, trainer, wandb, objective, tensorboard"
    ),
    "+agent_name=x": "agent_name=x: unknown key; did you mean agent?",
    "+trainer.batchsize=1": "trainer.batchsize=1: unknown key; did you mean trainer.batch_size?",
    "++trainer.ppo.gama=1": "trainer.ppo.gama=1: unknown key; did you mean trainer.ppo.gamma?",
    "+trainer.batch_size=96": "+trainer.batch_size=96: the key exists; leave the + out",
    "~trainer.batch_size": "trainer.batch_size: missing; needs a whole number greater than 0 or auto",
    "~trainer.batchsize": "~trainer.batchsize: unknown key; did you mean trainer.batch_size?",
    "env.features.tag.categories=0": (
        "env.features.tag.categories=0: no such key here yet; +env.features.tag.categories=0 adds it"
    ),
    "+env.features.tag={categorys:0}": (
        "env.features.tag.categorys=0: unknown key; did you mean env.features.tag.categories?"
    ),
    "agent.components.fc1.nn_params.out_feature=3": (
        "agent.components.fc1.nn_params.out_feature=3: no such key here yet; "
        "did you mean agent.components.fc1.nn_params.out_features?"
    ),
    # grammar
    "seed=1,2": (
        "seed=1,2: several values for one run; -m makes a run for each, quotes make them one text: \"seed='1,2'\""
    ),
    "trainer.batch_size": "trainer.batch_size: needs the form key=value",
    "=3": "=3: needs a key in front of the =",
    "trainer.batch_size=[1": (
        "trainer.batch_size=[1: the value is not understood; put a text with special characters in quotes: "
        "\"trainer.batch_size='[1'\""
    ),
    "trainer.ppo.clip_coef=${nope}": "trainer.ppo.clip_coef: Interpolation key 'nope' not found",
    # values
    "trainer.batch_size=0": "trainer.batch_size=0: needs a whole number greater than 0 or auto",
    "trainer.batch_size=-1": "trainer.batch_size=-1: needs a whole number greater than 0 or auto",
    "trainer.batch_size=1.5": "trainer.batch_size=1.5: needs a whole number greater than 0 or auto",
    "trainer.batch_size=1e300": "trainer.batch_size=1e+300: needs a whole number greater than 0 or auto",
    "trainer.batch_size=true": "trainer.batch_size=true: needs a whole number greater than 0 or auto",
    "trainer.batch_size=null": "trainer.batch_size=null: needs a whole number greater than 0 or auto",
    "trainer.batch_size=autoo": (
        "trainer.batch_size=autoo: needs a whole number greater than 0 or auto; did you mean auto?"
    ),
    "trainer.optimizer.learning_rate=abc": (
        "trainer.optimizer.learning_rate=abc: needs a number greater than 0 and at most 1"
    ),
    "trainer.optimizer.learning_rate=nan": (
        "trainer.optimizer.learning_rate=NaN: needs a number greater than 0 and at most 1"
    ),
    "trainer.optimizer.type=adm": "trainer.optimizer.type=adm: needs one of adam, muon; did you mean adam?",
    "trainer.ppo.norm_adv=maybe": "trainer.ppo.norm_adv=maybe: needs true or false",
    "trainer.optimizer=3": (
        "trainer.optimizer=3: needs keys of its own: type, learning_rate, beta1, beta2, eps, weight_decay"
    ),
    "trainer.batch_size=0 seed=-1": "seed=-1: needs a whole number from 0 to 2^63 - 1 (and 1 more)",
    "seed=1.5": "seed=1.5: needs a whole number from 0 to 2^63 - 1",
    "device=gpu": "device=gpu: needs auto, cpu, cuda or cuda:<number>",
    "data_dir=": "data_dir='': needs the path of a folder",
    "wandb.name=3": "wandb.name=3: needs a text or null; quote it: \"wandb.name='3'\"",
    "wandb.tags=abc": "wandb.tags=abc: needs a list, like [a,b]",
    "env.task.name=forag": "env.task.name=forag: needs one of forage, arena; did you mean forage?",
    # values that do not fit together
    "trainer.batch_size=1000": (
        "trainer.batch_size=1000: needs whole segments of trainer.bptt_horizon=16 steps; "
        "use 992 or 1008, or trainer.batch_size=auto"
    ),
    "trainer.batch_size=4096 trainer.minibatch_size=8192": (
        "trainer.minibatch_size=8192: needs at most trainer.batch_size=4096; use that, a part of it, "
        "or trainer.minibatch_size=auto"
    ),
    "trainer.checkpoint.wandb_checkpoint_interval=75": (
        "trainer.checkpoint.wandb_checkpoint_interval=75: needs 0 (never) or a multiple of "
        "trainer.checkpoint.checkpoint_interval=50, because only saved checkpoints are uploaded; use 50 or 100"
    ),
    # hydra's own settings
    "hydra.run.dir=x": (
        "hydra.run.dir=x: Hydra's own settings are for sweeps (-m) and have no effect on a single run, "
        "whose folder is <data_dir>/<run>"
    ),
    # options
    "--multirn": "unrecognized arguments: --multirn; did you mean --multirun? (see metta-train --help)",
    "--config-dir nope": "--config-dir nope: no such folder",
    "--config-name nope": "--config-name nope: no such configuration",
    "-sc install=bsh": (
        "-sc install=bsh: needs one of install=bash, install=fish, install=zsh, uninstall=bash, uninstall=fish, "
        "uninstall=zsh; did you mean install=bash?"
    ),
    "--experimental-rerun x": ("--experimental-rerun reads a pickle, which is not safe; the same run= continues a run"),
    "--cfg job trainer.batchsize=1": "trainer.batchsize=1: unknown key; did you mean trainer.batch_size?",
    # sweeps: refused as a whole before anything is written
    "-m seed=1,2 trainer.batchsize=1": "trainer.batchsize=1: unknown key; did you mean trainer.batch_size?",
    "-m agent=mlp,fats": "agent=fats: needs one of fast, mlp; did you mean fast?",
    "-m data_dir=a,b": "data_dir=a,b: all runs of a sweep share one data_dir",
    "-m seed=1,2 hydra.sweep.dir=x": (
        "hydra.sweep.dir=x: the jobs of a sweep live in <data_dir>/<run>/<job>; set data_dir and run"
    ),
    "-m seed=1, x": "seed=1,: the value is not understood; put a text with special characters in quotes: \"seed='1,'\"",
}
BAD_NAMES = ["run=../x", "run=/tmp/x", "run=a/../../x", "run=", "run=.hidden", "run=a/b/c/d", "run='a b'", "run=a."]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunConfig]:
    """Training replaced by a list of what would have been trained, in an empty folder."""
    configs: list[RunConfig] = []

    def remember(config: RunConfig, command: object) -> int:
        configs.append(config)
        return DONE

    monkeypatch.setattr(train, "_train", remember)
    monkeypatch.chdir(tmp_path)
    return configs


@pytest.mark.parametrize("line", BAD)
def test_a_wrong_command_line_earns_one_line_and_writes_nothing(
    line: str, started: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(line.split()) == BAD_USAGE
    printed = capsys.readouterr()
    assert printed.err == BAD[line] + "\n"
    assert printed.out == ""
    assert started == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", [[], ["-m"]])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_run_name_that_leads_elsewhere_writes_nothing(
    name: str, prefix: list[str], started: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*prefix, name, "seed=1"]) == BAD_USAGE
    error = capsys.readouterr().err
    assert error.startswith("run=") and error.count("\n") == 1
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_name_may_not_leave_through_a_link(
    started: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "train_dir").mkdir()
    (tmp_path / "train_dir" / "mine").symlink_to(tmp_path / "elsewhere")
    assert train.main(["run=mine"]) == BAD_USAGE
    assert "leads out of data_dir" in capsys.readouterr().err
    assert started == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "py_agent=fast run=t trainer.total_timesteps=5000 trainer.num_workers=2 "
        "trainer.checkpoint.checkpoint_interval=2500 trainer.simulation.evaluate_interval=0 wandb=off",
        "agent=fast run=t trainer.total_timesteps=5000 trainer.num_workers=2 "
        "trainer.checkpoint.checkpoint_interval=2500 trainer.simulation.evaluate_interval=0 wandb=off",
    ],
)
def test_the_lines_of_the_original_for_a_mini_training(line: str, started: list[RunConfig]) -> None:
    assert train.main(line.split()) == DONE
    (config,) = started
    assert config.run == "t"
    assert config.trainer.total_timesteps == 5000
    assert config.trainer.num_workers == 2
    assert config.trainer.checkpoint.checkpoint_interval == 2500
    assert config.trainer.simulation.evaluate_interval == 0
    assert config.wandb.mode == "off"


def test_a_wrong_choice_of_an_option_earns_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--cfg", "jobs"]) == BAD_USAGE
    error = capsys.readouterr().err
    assert "did you mean job?" in error and error.count("\n") == 1  # the rest is argparse's, and its versions differ


def test_a_later_choice_of_a_group_wins(started: list[RunConfig]) -> None:
    assert train.main(["agent=fast", "agent=mlp", "env=gymnasium"]) == DONE
    assert started[0].agent_name == "agent=mlp"


def test_config_dir_adds_options(started: list[RunConfig], tmp_path: Path) -> None:
    trainers = tmp_path / "my conf" / "trainer"
    trainers.mkdir(parents=True)
    (trainers / "mine.yaml").write_text("defaults: [laptop, _self_]\nupdate_epochs: 7\n")
    assert train.main(["--config-dir", "my conf", "trainer=mine"]) == DONE
    assert started[0].trainer.update_epochs == 7


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--version"]) == DONE
    assert capsys.readouterr().out.startswith("metta-train 0.")


def test_cfg_job_prints_the_configuration(
    started: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--cfg", "job", "trainer.update_epochs=9"]) == DONE
    out = capsys.readouterr().out
    assert "update_epochs: 9" in out and "bptt_horizon: 16" in out
    assert started == [] and list(tmp_path.iterdir()) == []


def test_an_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: RunConfig, command: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "_train", interrupted)
    assert train.main([]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_an_unexpected_error_is_a_crash_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: RunConfig, command: object) -> int:
        raise IndexError("our own bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "_train", broken)
    assert train.main([]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "our own bug" in error


def test_secrets_of_the_environment_are_not_printed(
    started: list[RunConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-0123456789abcdef")
    assert train.main(["+wandb.key=canary-0123456789abcdef"]) == BAD_USAGE
    error = capsys.readouterr().err
    assert error.startswith("wandb.key=") and "canary" not in error


# ----- as processes


def test_help_and_bad_values_import_nothing_heavy(tmp_path: Path) -> None:
    for arguments, code in ((["--help"], DONE), (["--version"], DONE), (["trainer.batch_size=-1"], BAD_USAGE)):
        script = (
            "import sys; from metta_train.cli.train import main; "
            f"code = main({arguments!r}); print('loaded', sorted({HEAVY} & set(sys.modules)), 'code', code)"
        )
        done = run_python(["-c", script], tmp_path)
        assert done.out.splitlines()[-1] == f"loaded [] code {code}", done


def test_a_bad_value_is_refused_quickly(tmp_path: Path) -> None:
    done = run_python(["-m", "metta_train", "trainer.batch_size=-1", "run=x"], tmp_path)
    assert done.code == BAD_USAGE
    assert done.err == "trainer.batch_size=-1: needs a whole number greater than 0 or auto\n"
    assert done.processor_seconds < 3
    assert list(tmp_path.iterdir()) == []


def test_mistakes_that_only_show_with_the_environment_write_nothing_either(tmp_path: Path) -> None:
    for override, words in (
        ("trainer.batch_size=784", "trainer.batch_size=784"),
        ("env.config=nope.yaml", "env.config=nope.yaml"),
        ("trainer.initial_policy.uri=nope", "no such folder of a checkpoint"),
        ("agent.components.core.bias_init=one", "bias_init"),
    ):
        done = metta_train("trainer=smoke", "wandb=off", "run=x", override, folder=tmp_path)
        assert done.code == BAD_USAGE, done.err
        assert words in done.err and done.err.count("\n") == 1, done.err
        assert list(tmp_path.iterdir()) == []
