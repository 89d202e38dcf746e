"""`metta-parity` as a user meets it: exit codes, the table, JSON, files, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from metta_train.cli.parity import main
from tests.cli.command import run_python
from tests.fakes.ported_fast import NAMES

PAIR = ["agent=fast", "py_agent=fast"]
SPEC = {
    "name": "small",
    "num_agents": 4,
    "observation": {
        "num_tokens": 20,
        "window_height": 11,
        "window_width": 11,
        "features": [
            {"id": 0, "name": "tag", "categories": 4},
            {"id": 7, "name": "hp", "normalization": 10},
            {"id": 3, "name": "ore", "normalization": 2.5},
        ],
    },
    "actions": {"types": ["noop", "move"], "max_arguments": [0, 3]},
}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A spec file in the working directory, which is empty otherwise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    return "--spec=spec.yaml"


def test_the_fast_pair_holds_in_every_section(spec: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*PAIR, spec, "--json", "out.json"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "agent=fast against py_agent=fast, small, cpu"
    assert [line.split()[:3] for line in lines[2:]] == [
        [section, "equal", "0"]
        for section in ("structure", "initialisation", "forward", "backward", "weights", "training")
    ]
    assert "checkpoint files byte-identical" in lines[-1]
    assert err == ""
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["holds"] is True and report["stopped"] is None
    assert [section["largest_difference"] for section in report["sections"]] == [0.0] * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "spec.yaml"], "nothing else is written"


def test_a_difference_is_exit_code_1_with_layer_and_cause(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    against = "--against=agent.components.critic_1.nonlinearity=nn.ReLU"
    assert main(["agent=fast", against, spec, "--sections=initialisation,forward"]) == 1
    out = capsys.readouterr().out
    assert "initialisation  DIFFERENT" in out and "forward         DIFFERENT" in out
    assert "critic_1: gain 1.00 against 1.41" in out
    assert "likely cause: relu instead of tanh after critic_1" in out


def test_json_on_standard_output_takes_the_place_of_the_table(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    against = "--against=agent.components.core.bias_init=ones"
    assert main(["agent=fast", against, spec, "--json=-", "--sections=initialisation,forward"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["candidate"] == "agent=fast agent.components.core.bias_init=ones"
    sections = {section["name"]: section for section in report["sections"]}
    assert sections["forward"]["holds"], "the same weights are copied into both"
    assert {finding["subject"] for finding in sections["initialisation"]["findings"]} == {
        f"core.bias_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)
    }


def test_a_class_of_the_users_own_with_a_name_map(
    spec: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(NAMES))
    mine = ["agent=fast", "--policy=tests.fakes.ported_fast:PortedFast", spec]
    strict = ["--names=names.yaml", "--sections=forward,backward"]
    assert main([*mine, *strict]) == 1
    assert main([*mine, *strict, "--tolerance=1e-5"]) == 0
    capsys.readouterr()
    assert main([*mine, "--sections=structure"]) == 1
    assert "fc1.weight [128, 64] is missing there; taken for it: encoder.5.weight" in capsys.readouterr().out


def test_a_py_agent_class_takes_options(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    mine = ["py_agent=fast", "--policy=metta_train.policies.py_agents.fast:Fast", spec]
    assert main([*mine, "--option=core.bias_init=forget", "--sections=initialisation"]) == 0
    assert main([*mine, "--option=core.bias_init=ones", "--sections=initialisation"]) == 1
    capsys.readouterr()
    assert main([*mine, "--option=core.bias_int=ones"]) == 2
    assert "unknown key 'core.bias_int'; did you mean 'bias_init'?" in capsys.readouterr().err


BAD = {
    "agent=fats py_agent=fast": "agent=fats: needs one of fast, mlp; did you mean fast?",
    "agent=fast": "nothing to compare with: give agent=... and py_agent=...",
    "": "nothing to compare with",
    "agent=fast py_agent=fast --policy=a:B": "more than one to compare with",
    "agent=fast --against=env=arena": "--against env=arena: only agent and py_agent may differ",
    "agent=fast --against=agent.components.fc2.class=Linear": "agent.components.fc2.class=Linear: ",
    "agent=fast py_agent=fast --epochs=0": "--epochs 0: needs 1 or more",
    "agent=fast py_agent=fast --epochs=x": "argument --epochs: invalid int value: 'x' (see metta-parity --help)",
    "agent=fast py_agent=fast --bogus": "unrecognized arguments: --bogus",
    "agent=fast py_agent=fast --sections=foward": "--sections foward: needs some of structure, ",
    "agent=fast py_agent=fast --tolerance=forwrad=1": "--tolerance forwrad=1: no section 'forwrad'",
    "agent=fast py_agent=fast --tolerance=forward=-1": "--tolerance forward=-1: needs a number of 0 or more",
    "agent=fast py_agent=fast --tolerance=nan": "--tolerance nan: needs a number of 0 or more",
    "agent=fast py_agent=fast --json=no/such/out.json": "--json no/such/out.json: there is no folder no/such",
    "agent=fast py_agent=fast --spec=none.yaml": "spec none.yaml: No such file or directory",
    "agent=fast py_agent=fast --names=none.yaml": "--names none.yaml: No such file or directory",
    "agent=fast py_agent=fast --spec=list.yaml": "spec list.yaml: holds list, needs a mapping",
    "agent=fast py_agent=fast --spec=broken.yaml": "spec broken.yaml: not readable as YAML",
    "agent=fast py_agent=fast --spec=typo.yaml": "spec typo.yaml: unknown key 'num_agent'; did you mean 'num_agents'?",
    "agent=fast py_agent=fast --spec=narrow.yaml": "a kernel of 3 does not fit a side of 2 cells",
    "agent=fast py_agent=fast --real-env --spec=spec.yaml": "--real-env --spec: a spec file has no environment",
    "agent=fast py_agent=fast --device=cuda:77": "cuda",
    "agent=fast py_agent=fast --option=a=1": "--option belongs to --policy",
    "agent=fast --policy=nope": "--policy nope: needs the form package.module:Class",
    "agent=fast --policy=no.such.module:X": "importing no.such.module raises ModuleNotFoundError",
    "agent=fast --policy=mine:Missing --spec=spec.yaml": "mine has no 'Missing'",
    "agent=fast --policy=mine:NoPolicy --spec=spec.yaml": "NoPolicy is no subclass of",
    "agent=fast --policy=mine:NoInit --spec=spec.yaml": "its constructor raises RuntimeError: not today",
    "agent=fast --policy=mine:NoForward --spec=spec.yaml": "mine:NoForward: forward (one step) raises KeyError",
    "agent=fast --against=agent.components.fc1.nn_params.out_features=64 --spec=spec.yaml": (
        "the shapes cannot match: fc1.weight is [128, 64] in agent=fast and [64, 64] in agent=fast "
        "agent.components.fc1.nn_params.out_features=64 (and 2 more)"
    ),
    "agent=fast --against=agent=mlp --spec=spec.yaml": "reads box observations, but environment 'small' has tokens",
}

MINE = """
from metta_train.policies.py_agents.fast import CoreOptions, Fast, FastOptions

class NoPolicy:
    pass

class NoInit(Fast):
    def __init__(self, spec, options=None):
        raise RuntimeError("not\\ntoday")
    class Options(FastOptions):
        core: CoreOptions = CoreOptions(bias_init="forget")

class NoForward(NoInit):
    def __init__(self, spec, options):
        Fast.__init__(self, spec, options)
    def forward(self, observations, state, resets):
        raise KeyError("x")
"""


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_exit_code_2_with_one_line(
    line: str, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "broken.yaml").write_text("{a: [")
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump({**SPEC, "num_agent": 1}))
    narrow = {**SPEC, "observation": {**SPEC["observation"], "window_width": 9}}
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(narrow))
    before = {path.name for path in tmp_path.iterdir()}
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert BAD[line] in err
    assert err.count("\n") == 1, err
    assert {path.name for path in tmp_path.iterdir()} - before <= {"__pycache__"}


def test_shapes_that_cannot_match_are_shown_before_the_line(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    against = "--against=agent.components.fc1.nn_params.out_features=64"
    assert main(["agent=fast", against, spec, "--json=out.json"]) == 2
    out, _ = capsys.readouterr()
    assert "fc1.weight is [128, 64] in agent=fast and [64, 64]" in out
    report = json.loads(Path("out.json").read_text())
    assert report["holds"] is False and report["stopped"].startswith("the shapes cannot match")
    assert [section["name"] for section in report["sections"]] == ["structure", "initialisation"]


@pytest.mark.parametrize("env", ["env=arena", "env=gymnasium"])
def test_configured_environments(env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's own rollouts for the arena; a vector agent against itself for CartPole."""
    monkeypatch.chdir(tmp_path)
    pair = [*PAIR, "--real-env"] if env == "env=arena" else ["agent=mlp", "--against=agent=mlp"]
    assert main([*pair, env, "--epochs=1"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from metta_train.cli.parity import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'mettagrid', 'wandb'} & set(sys.modules))"
    )
    done = run_python(["-c", code], tmp_path)
    assert done.code == 0, done.err
    assert "--against" in done.out and done.out.splitlines()[-1] == "set()"


def test_the_fast_pair_takes_little_time_and_memory(tmp_path: Path) -> None:
    """At most 30 s and 1 GiB on two cores; the time bound leaves room for a busy machine."""
    code = (
        "import time, pathlib; started = time.process_time()\n"
        "from metta_train.cli.parity import main\n"
        "code = main(['agent=fast', 'py_agent=fast'])\n"
        # Not ru_maxrss: that of a started program begins with the memory of whoever started it.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "peak = int(status.split('VmHWM:')[1].split()[0])\n"
        "print(code, time.process_time() - started, peak / 2**20)"
    )
    done = run_python(["-c", code], tmp_path, OMP_NUM_THREADS="2")
    code_text, seconds, gibibytes = done.out.splitlines()[-1].split()
    assert code_text == "0", done.err
    assert float(seconds) < 30
    assert float(gibibytes) < 1
