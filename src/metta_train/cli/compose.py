"""From overrides to a RunConfig, with Hydra for the composition; every user's mistake is one ConfigError."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from metta_train.cli.config_source import ConfigSource, conf_folder
from metta_train.cli.hydra_errors import Known, explain
from metta_train.cli.search_path import OwnFolder, origin_of, shadowed, split_searchpath
from metta_train.cli.suites import load_suite
from metta_train.run_config import EvaluationSuite, RunConfig, plain_values
from metta_train.specs.config_errors import ConfigError, nearest_key
from metta_train.specs.config_origin import SHIPPED, ConfigOrigin
from metta_train.training.run_paths import RunPaths

NO_CHOICE = "none"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Composition:
    """A composed tree, not yet validated, and the choices that made it."""

    tree: DictConfig
    choices: Mapping[str, Any]  # group -> option
    source: ConfigSource
    origin: ConfigOrigin = SHIPPED
    warnings: tuple[str, ...] = ()  # about files of the user's own that were passed over

    @property
    def agent_name(self) -> str:
        """`agent=fast` or `py_agent=fast`."""
        py_agent = self.choices.get("py_agent")
        if isinstance(py_agent, str) and py_agent != NO_CHOICE:
            return f"py_agent={py_agent}"
        return f"agent={self.choices.get('agent')}"


def load_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose and validate exactly as the command line does.

    Args:
        overrides: as on the command line, e.g. `["agent=fast", "trainer=smoke", "run=mine"]`. Without `run=` each call
            makes a new name.

    Raises:
        ConfigError: a ValueError of one line: key, got, needed, nearest key.
    """
    composition = compose(overrides, ConfigSource(conf_folder()))
    for warning in composition.warnings:
        logger.warning("%s", warning)
    return run_config(composition)


def run_config(composition: Composition) -> RunConfig:
    """Validate a composition; a run without a name gets one, a suite its environments. Raises ConfigError."""
    config = _validated(composition)
    simulation = config.trainer.simulation
    if simulation.suite is None or simulation.evaluate_interval == 0:
        return config
    return config.model_copy(update={"suite": _suite(simulation.suite, composition.source)})


def _validated(composition: Composition) -> RunConfig:
    tree = composition.tree
    if tree.get("run") is None:
        tree = tree.copy()
        with open_dict(tree):
            tree.run = generated_name(composition)
    return RunConfig.from_tree(tree, composition.agent_name, composition.origin)


def _suite(name: str, source: ConfigSource) -> EvaluationSuite:
    suite = load_suite(name, source, key="trainer.simulation.suite=")
    environments = {title: _validated(compose(wanted, source)).env for title, wanted in suite.environments.items()}
    return EvaluationSuite(seed=suite.seed, environments=environments)


def generated_name(composition: Composition) -> str:
    """`fast-forage-20250131-174500-3f9a`: agent, environment, local time, and four digits against equal names."""
    agent = composition.agent_name.replace("py_agent=", "py-").removeprefix("agent=")
    label = f"{agent}-{composition.choices.get('env')}"
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-._") or "run"
    return f"{label[:80]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def compose(overrides: Sequence[str], source: ConfigSource) -> Composition:
    """Compose one job; nothing is resolved and nothing is written.

    Raises:
        ConfigError: an override or group that does not exist, is malformed, or contradicts another one.
    """
    overrides, searchpath = split_searchpath(overrides)
    source = replace(source, searchpath=searchpath or source.searchpath)
    own = source.own_folders()
    with _hydra_at(source.folder, own):
        _refuse_lists(overrides, GlobalHydra.instance().config_loader().list_groups(""))
        _refuse_two_agents(overrides)
        _refuse_new_keys(overrides, GlobalHydra.instance().config_loader().list_groups(""))
        try:
            composed = _composed(source, overrides)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain(error, overrides, _known(source, overrides))) from error
    return replace(
        composed,
        origin=replace(origin_of(composed.choices, source.folder, own), overrides=tuple(overrides)),
        warnings=shadowed(composed.choices, source.folder, own),
    )


def located(data_dir: Path, run: str) -> Path:
    """The folder of a run; refuses names that lead elsewhere with a ConfigError, before anything is written."""
    try:
        return RunPaths.locate(data_dir, run).folder
    except ValueError as error:
        raise ConfigError(str(error)) from error


def resolved(composition: Composition) -> dict[str, Any]:
    """The tree as plain values, interpolations resolved. Raises ConfigError."""
    return plain_values(composition.tree)


def quoted(text: str) -> str:
    """A text as the value of an override, whatever characters it holds."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def choice_of(group: str, overrides: Sequence[str]) -> str | None:
    """What the overrides choose for a group, as written; None when they leave it."""
    chosen = [o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == group and "=" in o]
    return chosen[-1] if chosen else None


@contextmanager
def _hydra_at(folder: Path, own: Sequence[OwnFolder]) -> Iterator[None]:
    """Hydra's one global instance, for us; whoever had it before gets it back."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), job_name="metta-train", version_base="1.3"):
            search_path = create_config_search_path(str(folder))
            for added in own:
                search_path.prepend("own", f"file://{added.folder}", anchor=SearchPathQuery("schema", None))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(task_name="metta-train", config_search_path=search_path)
            yield
    finally:
        GlobalHydra.instance().hydra = before  # by now another instance: Hydra replaces it


def _composed(source: ConfigSource, overrides: Sequence[str]) -> Composition:
    tree = hydra_compose(source.name, list(overrides), return_hydra_config=True)
    choices = dict(tree.hydra.runtime.choices)
    with open_dict(tree):
        del tree["hydra"]
    return Composition(tree, choices, source)


def _refuse_lists(overrides: Sequence[str], groups: Sequence[str]) -> None:
    """Hydra merges the options of a list; no group of ours is made for that."""
    for group in groups:
        written = choice_of(group, overrides)
        if written is not None and written.startswith("["):
            raise ConfigError(f"{group}={written}: needs one choice, got a list")


def _refuse_new_keys(overrides: Sequence[str], groups: Sequence[str]) -> None:
    """Hydra takes `+experimant=x`, a group misspelt, for a new key."""
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if not override.startswith("+") or key in RunConfig.model_fields or key in groups:
            continue
        nearest = nearest_key(key, groups)
        if nearest is not None:
            raise ConfigError(f"{override}: unknown key; did you mean {nearest}?")


def _refuse_two_agents(overrides: Sequence[str]) -> None:
    agent, py_agent = choice_of("agent", overrides), choice_of("py_agent", overrides)
    if agent is not None and py_agent is not None and py_agent != NO_CHOICE:
        raise ConfigError(f"agent={agent} py_agent={py_agent}: both name the policy; leave one of them out")


def _known(source: ConfigSource, overrides: Sequence[str]) -> Known:
    """What suggestions are made from: all groups, and the tree of those choices that exist."""
    loader = GlobalHydra.instance().config_loader()
    groups = {group: loader.get_group_options(group) for group in loader.list_groups("") if group != "hydra"}
    chosen = {group: choice_of(group, overrides) for group in groups}
    valid = [f"{group}={option}" for group, option in chosen.items() if option in groups[group]]
    for attempt in (valid, []):
        try:
            composition = _composed(source, attempt)
        except (HydraException, OmegaConfBaseException, ValueError):
            continue
        tree = OmegaConf.to_container(composition.tree, resolve=False)
        assert isinstance(tree, dict)
        return Known(groups, {str(key): value for key, value in tree.items()}, composition.choices)
    return Known(groups, {}, {})
