"""What installed packages offer under a name: agents, environments."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from metta_train.specs.config_errors import nearest_choice

AGENTS = "metta_train.agents"
ENVS = "metta_train.envs"


def offered_names(group: str) -> tuple[str, ...]:
    """The names of a group of entry points, without loading them."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load_offered(group: str, name: str) -> object:
    """What a package offers under this name.

    Raises:
        ValueError: no package does, several do, or it cannot be imported.
    """
    found = list(entry_points(group=group, name=name))
    if not found:
        known = offered_names(group)
        hint = nearest_choice(name, known) or (f"; offered are {', '.join(known)}" if known else "")
        raise ValueError(f"no installed package offers {name!r} as an entry point {group}{hint}")
    if len({entry.value for entry in found}) > 1:
        packages = ", ".join(sorted(_package(entry) for entry in found))
        raise ValueError(f"several packages offer {name!r} as an entry point {group}: {packages}; uninstall one")
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{_package(found[0])} offers {name!r} as {found[0].value}, which cannot be imported: {error}"
        ) from error


def _package(entry: EntryPoint) -> str:
    return "a package" if entry.dist is None else entry.dist.name
