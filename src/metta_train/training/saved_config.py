"""config.yaml: the composed configuration of a run's last start, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import yaml
from yaml.composer import ComposerError

from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.training.run_paths import RunPaths

MAX_CONFIG_BYTES = 4 << 20


def read_config(paths: RunPaths) -> dict[str, object] | None:
    """The saved configuration as plain data: nothing in it is resolved or instantiated. None when there is none.

    Raises:
        ValueError: the file is not a YAML mapping of plain values.
        StorageError: it cannot be read.
    """
    with storage_errors("read", paths.config):
        try:
            if paths.config.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"{paths.config} is larger than {MAX_CONFIG_BYTES} bytes; it is not a saved config")
            text = paths.config.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
    try:
        config = _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(f"{paths.config} is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{paths.config} holds no mapping; restore it, or use another run name")
    return cast("dict[str, object]", config)


def write_config(paths: RunPaths, config: Mapping[str, object]) -> None:
    """Replace the saved configuration in one step. Raises StorageError."""
    text = yaml.dump(config, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)
    with storage_errors("write", paths.config):
        replace_file(paths.config, text.encode())


class _PlainLoader(yaml.SafeLoader):
    """Plain values only, and no aliases: a few lines of nested aliases can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, "aliases are not allowed here", event.start_mark)
        return super().compose_node(parent, index)  # pyright: ignore[reportArgumentType]  # the stub says int


class _PlainDumper(yaml.SafeDumper):
    """Writes a value again where it appears again, instead of an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True
