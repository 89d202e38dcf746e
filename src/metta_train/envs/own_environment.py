"""Environments that installed packages bring: the interface, and how one is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

from pydantic import ValidationError

from metta_train.envs.config import PluginEnvConfig
from metta_train.envs.environment import Environment
from metta_train.specs.config_errors import describe, json_schema
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.entry_points import ENVS, load_offered


class OwnEnvironment(Environment):
    """An environment that a package offers as an entry point `metta_train.envs`.

    Its constructor takes `(options)`, an instance of `Options`.

    Attributes:
        Options: schema of `env.options`.
    """

    Options: ClassVar[type[ConfigModel]]


def own_environment_factory(config: PluginEnvConfig) -> Callable[[], OwnEnvironment]:
    """A function that makes environments of the configured kind.

    Raises:
        ValueError: no package offers it, or the options are not its own.
    """
    name = config.name
    assert name is not None, "the config model sees to it"
    try:
        kind = load_offered(ENVS, name)
    except ValueError as error:
        raise ValueError(f"env.name={name}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, OwnEnvironment)):
        raise ValueError(f"env.name={name}: the package offers {kind!r}, which is no subclass of OwnEnvironment")
    try:
        options = kind.Options.model_validate(dict(config.options))
    except ValidationError as error:
        words = describe(error, config.options, json_schema(kind.Options))
        raise ValueError(f"env.options.{words}") from error
    constructor = cast("Callable[[ConfigModel], OwnEnvironment]", kind)
    return lambda: constructor(options)
