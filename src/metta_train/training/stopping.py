"""Being asked to stop: a flag that every loop looks at, so that nothing is ever done inside a signal handler."""

from __future__ import annotations

import math
from time import monotonic

# Batch systems kill 30 seconds after they ask (torchrun, Slurm's default); the save itself needs a share of them.
PATIENCE = 8.0  # seconds that an update or evaluation in progress may still take


class StopRequested(Exception):  # noqa: N818  # not an error: the run was asked to stop, and did (exit code 75)
    """The training ends here because somebody asked for it; everything up to the last whole epoch is saved."""


class StopRequest:
    """Whether, why and how urgently this process was asked to stop.

    Attributes:
        redrawn_rows: of the terminal above the cursor, which a dashboard will draw again; who says something to the
            person there leaves room for it.
    """

    def __init__(self) -> None:
        self.redrawn_rows = 0
        self._reason: str | None = None
        self._deadline = math.inf

    def request(self, reason: str, *, patient: bool) -> None:
        """Ask for a stop; safe to call from a signal handler.

        Args:
            reason: for people, e.g. "SIGTERM".
            patient: an update in progress may take its time; False gives it PATIENCE seconds.
        """
        if not patient:
            self._deadline = min(self._deadline, monotonic() + PATIENCE)
        if self._reason is None:
            self._reason = reason

    @property
    def requested(self) -> bool:
        return self._reason is not None

    def check(self) -> None:
        """For work that is abandoned at once. Raises StopRequested."""
        if self._reason is not None:
            raise StopRequested(f"stopped by {self._reason}")

    def check_finishing(self) -> None:
        """For work that is worth finishing while there is time. Raises StopRequested when there is none."""
        if self._reason is not None and monotonic() > self._deadline:
            raise StopRequested(f"stopped by {self._reason}")
