"""What signals mean while a training runs. The handlers set a flag or leave; saving is done where it is safe.

TERM, USR1, HUP   save and end (exit code 75), as batch systems ask before they kill
Ctrl-C            once: finish the update, save and end (75); twice: end now (130); three times: gone (130)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from metta_train.cli.exit_codes import INTERRUPTED
from metta_train.envs.child_process import STOP_SIGNALS
from metta_train.training.stopping import StopRequest

SHOW_CURSOR = b"\x1b[?25h"  # a dashboard hides it


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Signals go to `stop` during the block; afterwards they mean what they meant before.

    Signals that the parent had ignored stay ignored: nohup does that to HUP, and a shell to INT of a job behind `&`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return
    interrupts = 0

    def ask(number: int, frame: FrameType | None) -> None:
        stop.request(signal.Signals(number).name, patient=False)

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            stop.request("Ctrl-C", patient=True)
            _say("finishing the update and saving; Ctrl-C again stops now, without saving", stop.redrawn_rows)
        elif interrupts == 2:
            raise KeyboardInterrupt
        else:
            _say("")
            os._exit(INTERRUPTED)  # env workers die with this process

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, interrupt if number == signal.SIGINT else ask)
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _say(text: str, redrawn_rows: int = 0) -> None:
    """Straight to the terminal, a handler may not wait for the locks of logging; a dashboard goes on below the text."""
    message = f"\n{text}\n" + "\n" * redrawn_rows if text else ""
    os.write(2, (SHOW_CURSOR if sys.stderr.isatty() else b"") + message.encode())
