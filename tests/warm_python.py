"""Python programs that start in a second: forked from a process that has loaded the libraries.

To load torch, its compiler, MettaGrid, Numba and Hydra takes four seconds of a processor, and most tests of the command
line are not about that. A program runs as `python -m` or `python -c` would run it, in a process of its own with its own
environment, folder and files, and imports our own package itself. Only what a library reads while it is loaded is the
same for all of them: OMP_NUM_THREADS is 1. Tests of what a start loads, costs or needs start Python itself.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


LIBRARIES = (
    "gymnasium",
    "hydra",
    "mettagrid.map_builder.map_builder",
    "mettagrid.mapgen.mapgen",
    "mettagrid.mettagrid_c",
    "numba",
    "psutil",
    "pydantic",
    "rich.console",
    "safetensors.torch",
    "torch",
    "torch._dynamo",  # which every optimizer loads
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended."""

    code: int  # negative: killed by that signal
    out: str
    err: str
    processor_seconds: float = 0.0  # what it used, however long others made it wait


class WarmPython:
    """The process that programs are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str], seconds: float) -> Finished:
        """`python ARGUMENTS` in `folder`, where the arguments begin with -m or -c; killed after so many seconds."""
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            request = {"arguments": list(arguments), "folder": str(folder), "environ": dict(environ)}
            self._tell({**request, "out": str(out), "err": str(err)})
            pid = int(self._hear())
            overdue = threading.Timer(seconds, os.kill, (pid, 9))
            overdue.start()
            try:
                code, used = self._hear().split()
            except BaseException:
                os.kill(pid, 9)
                raise
            finally:
                late = not overdue.is_alive()
                overdue.cancel()
            done = Finished(int(code), out.read_text(), err.read_text(), float(used))
        assert not late, f"killed after {seconds} s: {arguments}\n{done.out}\n{done.err}"
        return done

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _tell(self, request: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that programs are forked from has ended"
        return line


_warm: list[WarmPython] = []  # one at most, begun by the first who needs it


def run_warm(arguments: Sequence[str], folder: Path, environ: Mapping[str, str], seconds: float = 240.0) -> Finished:
    """As `WarmPython.run`, of one that lives as long as this process."""
    if not _warm:
        _warm.append(WarmPython())
    try:
        return _warm[0].run(arguments, folder, environ, seconds)
    except BaseException:  # whatever it was, the next program begins with another one
        close_warm()
        raise


@atexit.register
def close_warm() -> None:
    """Before the end, and after what went wrong."""
    while _warm:
        _warm.pop().close()


# ----- in the process that is forked


def serve() -> None:
    """Fork and wait as asked, until the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    load_libraries()
    gc.collect()
    gc.freeze()  # what is never looked at again is never copied
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            leave(become(request))
        print(pid, flush=True)
        _, status, used = os.wait4(pid, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)


def load_libraries() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    cpu_target = importlib.import_module("numba.core.registry").cpu_target
    cpu_target.typing_context.refresh()  # as the first kernel would
    cpu_target.target_context.refresh()
    assert "metta_train" not in sys.modules


def become(request: dict[str, object]) -> int:
    """The program, in this forked process; its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # the old one has read the requests
    environ, arguments = request["environ"], request["arguments"]
    assert isinstance(environ, dict) and isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(str(request["folder"]))
    own = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kind, program, *rest = arguments
    sys.path[:1] = [os.getcwd() if kind == "-m" else "", *own]
    sys.argv = ["-c" if kind == "-c" else program, *rest]
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """As Python ends, but for taking every library apart, which takes a second."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
