"""Agents, environments and options of installed packages: the template package of the docs, really installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metta_train.cli.exit_codes import BAD_USAGE, DONE
from metta_train.policies.py_agents.registry import py_agent_class, py_agent_names
from metta_train.specs.entry_points import AGENTS, ENVS, load_offered, offered_names
from tests.cli.command import REPOSITORY, Finished, metta_train, run_python

TEMPLATE = REPOSITORY / "docs" / "template-package"
RECALL = ["env=recall", "py_agent=listener"]
SHORT = ["trainer=smoke", "wandb=off", "trainer.total_timesteps=768", "trainer.batch_size=384"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the template package is installed into, by pip and without network."""
    folder = tmp_path_factory.mktemp("site")
    quiet = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = run_python(["-m", "pip", "install", *quiet, "--target", str(folder), str(TEMPLATE)], folder)
    assert done.code == 0, done.err
    return folder


def train(site: Path, folder: Path, *arguments: str) -> Finished:
    return metta_train(*arguments, folder=folder, PYTHONPATH=f"{site}:{REPOSITORY / 'src'}")


def test_the_template_trains_and_goes_on(site: Path, tmp_path: Path) -> None:
    """In worker processes, so that they find the package, too; the options are the package's own files."""
    line = [*RECALL, *SHORT, "run=r", "trainer.num_envs=6", "env.options.delay=2"]
    done = train(site, tmp_path, *line, "trainer.num_workers=1")
    assert done.code == DONE, done.err
    records = [json.loads(text) for text in (tmp_path / "train_dir/r/metrics.jsonl").read_text().splitlines()]
    assert [record["metric/agent_step"] for record in records] == [384, 768]
    assert 0 < records[-1]["env/right_answers"] <= 1
    assert records[-1]["experience/ep_lengths"] == 3
    (invocation,) = (tmp_path / "train_dir/r/invocations.jsonl").read_text().splitlines()
    assert json.loads(invocation)["own_config_files"] == [
        f"env=recall: {site}/recall/conf/env/recall.yaml",
        f"py_agent=listener: {site}/recall/conf/py_agent/listener.yaml",
    ]
    further = train(site, tmp_path, *line, "trainer.total_timesteps=1152")
    assert further.code == DONE and "continuing from" in further.err and "open a new episode" not in further.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [*RECALL, "env.options.delya=3"],
            "env.options.delya=3: no such key here yet; did you mean env.options.delay?",
        ),
        ([*RECALL, "+env.options.delya=3"], "env.options.delya=3: unknown key; did you mean delay?"),
        ([*RECALL, "env.options.delay=0"], "env.options.delay=0: needs a whole number greater than 0"),
        ([*RECALL, "py_agent.hidden_size=x"], "py_agent=listener: hidden_size: got 'x'"),
        (["env=plugin", "env.name=recal"], "entry point metta_train.envs; did you mean recall?"),
        (
            ["env=plugin"],
            "env.name: needs what an installed package offers as an entry point metta_train.envs (recall)",
        ),
        ([*RECALL, "py_agent.agent_type=listner"], "py_agent.agent_type: no agent 'listner'; did you mean 'listener'?"),
        (["py_agent=listener"], "py_agent=listener: reads vectors, and forage shows tokens; choose py_agent=fast"),
        (["env=recal"], "env=recal: needs one of"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    said: str,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from metta_train.cli import train as command

    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    assert command.main([*words, *SHORT, "run=x"]) == BAD_USAGE
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_and_the_tab_key_know_them(site: Path, tmp_path: Path) -> None:
    text = " ".join(train(site, tmp_path, "--help", "env=recall").out.split())
    assert "env=recall Agents are shown a word once and asked for it some steps later" in text
    assert "env.name=recall" in text
    done = metta_train(
        "-sc",
        "query=bash",
        folder=tmp_path,
        PYTHONPATH=f"{site}:{REPOSITORY / 'src'}",
        COMP_LINE="metta-train py_agent=l",
    )
    assert done.out == "py_agent=listener\n"


# ----- packages that offer something else


def offer(folder: Path, package: str, group: str, **entries: str) -> None:
    """Make an installed package of one module, as pip leaves it."""
    info = folder / f"{package}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(lines) + "\n")


def test_offers_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "one", ENVS, broken="nowhere.at.all:Env", twice="json:loads", plain="json:loads")
    offer(tmp_path, "two", ENVS, twice="json:dumps")
    offer(tmp_path, "three", AGENTS, fast="json:loads", number="json:loads")
    monkeypatch.syspath_prepend(tmp_path)
    assert offered_names(ENVS) == ("broken", "plain", "twice")
    with pytest.raises(
        ValueError, match=r"^one offers 'broken' as nowhere.at.all:Env, which cannot be imported: No mod"
    ):
        load_offered(ENVS, "broken")
    with pytest.raises(ValueError, match=r"^several packages offer 'twice' .*: one, two; uninstall one$"):
        load_offered(ENVS, "twice")
    with pytest.raises(ValueError, match=r"'fast' is metta-train's own agent; a package offers one of this name"):
        py_agent_class("fast")
    with pytest.raises(ValueError, match=r"the package offers <function loads .*, which is no subclass of PyAgent"):
        py_agent_class("number")
    assert py_agent_names() == ("fast", "number")


def test_a_package_whose_options_are_missing(tmp_path: Path) -> None:
    offer(tmp_path / "site", "one", "metta_train.conf", mine="nowhere.conf")
    done = train(tmp_path / "site", tmp_path, "--cfg", "job")
    assert done.code == BAD_USAGE
    assert done.err == "one: its entry point metta_train.conf mine names no package: nowhere.conf\n"


def test_the_template_is_not_installed_where_the_tests_run() -> None:
    """Otherwise these tests would prove nothing."""
    assert "recall" not in offered_names(ENVS)
