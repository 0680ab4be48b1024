"""How a script runs: mistakes become one line, and compiled programs are kept from one run to the next."""

import argparse
import difflib
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

# What a user can mend: a wrong value, a missing file, a full disk.
USER_ERRORS = (ValueError, OSError)
# Exit statuses after what asks a program to end, as a shell has them: Ctrl-C, and what ends jobs and containers.
STOP_STATUSES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
LONGEST = 1_000  # characters of a message, which may quote what is in a file
PIPE_WIDTH = 80  # columns where there is no terminal
GRACE = 3.0  # seconds after Ctrl-C or SIGTERM in which Python may end the program itself


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with what it returns (None is 0).

    A wrong value or file ends in `prog: message` on stderr and status 2, a loss that is not finite in status 1 and an
    interrupt in its own `status`, 130 or 143, all without a traceback; other exceptions are bugs and keep theirs.
    """
    _watch_interrupts()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be UTF-8
    try:
        sys.exit(main())
    except USER_ERRORS as error:
        _fail(2, error_message(error))
    except FloatingPointError as error:
        _fail(1, error_message(error))
    except KeyboardInterrupt as stop:
        if (status := getattr(stop, "status", None)) is not None:  # stopped in good order
            _fail(status, str(stop))
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        _end_at_once(str(stop) or "interrupted", STOP_STATUSES[number])


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the program to end: it ends as after Ctrl-C, with its own exit status."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser that tells mistakes in a sentence, as all others are told; --help has the rest."""

    def __init__(self, *, prog: str | None = None, first: str | None = None, **options: Any):
        """A parser of the running program; `first` is the flag that a word was meant for which no flag takes."""
        super().__init__(prog=prog or program(), **options)
        self.first = first

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        meant = self._meant(unknown[1]) if unknown else None
        _fail(2, f"{message}; {meant or f'see {self.prog} --help'}")

    def _meant(self, word: str) -> str | None:
        """A clause that says what a word on the command line was meant to be, which the parser does not know."""
        if not word.startswith("-"):
            return self.first and f"did you mean {self.first} {word}?"
        if word.startswith("--config"):
            return "it is a flag of the commands that train"
        flags = set(re.findall(r"--[a-z][a-z-]*", self.format_help())) - {"--help"}
        alike = difflib.get_close_matches(word, flags, n=1)
        return f"did you mean {alike[0]}?" if alike else None


def make_console() -> "Console":
    """What tables are printed on: as wide as the terminal, or 80 columns where there is none."""
    from rich.console import Console  # takes a while

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _watch_interrupts() -> None:
    """Have SIGTERM end the program as Ctrl-C does, and end it GRACE seconds after either where Python has not.

    Python hears of a signal after the call it is in only, which may be a compilation or a long computation. Who handles
    the signals itself turns this off by `signal.set_wakeup_fd(-1)`.
    """

    def terminate(*_):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch():
        while number := os.read(reading, 1):
            if status := STOP_STATUSES.get(number[0]):
                time.sleep(GRACE)
                _end_at_once("interrupted", status)

    threading.Thread(target=watch, daemon=True).start()


def _end_at_once(message: str, status: int) -> NoReturn:
    """End without waiting for threads and worker processes, which may have long to go; they end with this process."""
    print(f"{program()}: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def keep_compiled() -> None:
    """Turn on JAX's compilation cache, in ~/.cache/jaxsd/jax.

    What the environment or `jax.config` says already counts: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Where there is no home folder, nothing is kept.
    """
    folder = _cache_folder()
    if folder is None:
        return
    options = {
        "jax_compilation_cache_dir": str(folder / "jaxsd" / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0,  # a small model is many small programs
    }
    jax = sys.modules.get("jax")  # not imported here: it takes a second, which --help need not wait for
    if jax and jax.config.jax_compilation_cache_dir:
        return
    for name, value in options.items():
        if name.upper() in os.environ:
            continue
        os.environ[name.upper()] = str(value)
        if jax:  # it has read the environment already
            jax.config.update(name, value)


def _cache_folder() -> Path | None:
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in a container run as another user
        return None


def add_distributed_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `start_distributed` reads."""
    group = parser.add_argument_group("several processes (srun with several tasks needs no flags)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="process 0, or `auto` to ask the cluster: TPU, MPI")
    group.add_argument("--num-processes", type=int, metavar="N", help="how many processes are started")
    group.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0")


def start_distributed(arguments: argparse.Namespace) -> None:
    """Start `jax.distributed` where the flags or a SLURM step of several tasks ask for it; before any use of a device.

    Raises ValueError where the flags do not go together.
    """
    flags = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    coordinator, count, index = flags
    if flags == (None, None, None):
        step = "SLURM_STEP_NODELIST" in os.environ  # a step of srun, not the batch script around it
        if not (step and int(os.environ.get("SLURM_NTASKS", "1")) > 1):
            return
    elif coordinator != "auto":
        if None in flags:
            raise ValueError("--coordinator, --num-processes and --process-id go together")
        if not coordinator.rpartition(":")[2].isdecimal() or ":" not in coordinator:
            raise ValueError(f"--coordinator is {coordinator!r}; allowed: HOST:PORT, or auto")
        if not 0 <= index < count:
            raise ValueError(f"--process-id is {index}; allowed: 0 to {count - 1} (--num-processes less one)")
    import jax

    # What is left None, JAX finds out from the cluster.
    jax.distributed.initialize(None if coordinator == "auto" else coordinator, count, index)


def error_message(error: Exception) -> str:
    """What a user is told of an error, in a line of at most LONGEST characters."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    return message if len(message) <= LONGEST else f"{message[:LONGEST]} ..."


def program() -> str:
    """How the running program was called: `train.py`, `python -m jaxsd.toy` or `jaxsd toy`."""
    spec = None if sys.argv[0].startswith("jaxsd ") else sys.modules["__main__"].__spec__
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def _fail(status: int, message: str) -> NoReturn:
    print(f"{program()}: {message}", file=sys.stderr)
    sys.exit(status)
