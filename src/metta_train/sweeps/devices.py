"""How jobs at the same time share out the GPUs of a machine: each sees one, as its only device."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"  # read by CUDA when a process first asks for a device


def visible_devices(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA names them: a choice in `environ`, else all of the machine."""
    chosen = environ.get(VISIBLE)
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def keep_one_device(environ: MutableMapping[str, str], number: int) -> None:
    """Job `number` sees one of the GPUs, in turn. Where a process does several jobs, CUDA keeps that of the first."""
    devices = visible_devices(environ)
    if len(devices) > 1:
        environ[VISIBLE] = devices[number % len(devices)]


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
