"""Which GPUs the trials of a search share out: each trial sees one, as its only device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"  # read by CUDA when a process first asks for a device


def visible_devices(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA names them: a choice in `environ`, else all of the machine."""
    chosen = environ.get(VISIBLE)
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


class DeviceShare:
    """Hands out devices, the one with the fewest users first.

    Args:
        devices: their names; with fewer than two there is nothing to share out.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = tuple(devices) if len(devices) > 1 else ()
        self._users: dict[int, str] = {}

    def take(self, user: int) -> Mapping[str, str]:
        """What the process of `user` finds in its environment."""
        if not self._devices:
            return {}
        taken = list(self._users.values())
        self._users[user] = min(self._devices, key=taken.count)
        return {VISIBLE: self._users[user]}

    def give_back(self, user: int) -> None:
        self._users.pop(user, None)
