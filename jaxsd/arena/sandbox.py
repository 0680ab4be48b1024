"""Processes for code that nobody has read: limited, and in bubblewrap without network, home folder or environment.

The kernel enforces all of it: namespaces hide files, processes and network, rlimits bound memory and file size, and a
seccomp filter refuses new processes (threads are allowed). Who starts the process enforces the time.
"""

import os
import platform
import resource
import shutil
import signal
import site
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
TEMPORARY_BYTES = GIB // 4  # of the sandbox's own /tmp, which lies in memory
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
# Where the code of this project lies.
PROJECT = Path(__file__).parents[2]
MACHINES = {  # AUDIT_ARCH, clone, those that make processes alone, clone3
    "x86_64": (0xC000003E, 56, (57, 58), 435),
    "aarch64": (0xC00000B7, 220, (), 435),
}


@dataclass(frozen=True)
class Limits:
    """seconds: of wall-clock time. memory: bytes of address space. file_size: bytes of the largest file."""

    seconds: float = 300.0
    memory: int = 16 * GIB
    file_size: int = GIB // 16


def find_sandbox() -> str | None:
    """Why there is no sandbox here, in one sentence, or None where there is one."""
    if platform.machine() not in MACHINES or not sys.platform.startswith("linux"):
        return f"the sandbox needs Linux on {' or '.join(MACHINES)}"
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    done = subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], capture_output=True, text=True)
    return f"bubblewrap does not work here: {done.stderr.strip()}" if done.returncode else None


def choose_sandbox(trust: bool) -> bool:
    """Whether processes run in the sandbox: always where there is one.

    Raises ValueError where there is none, unless the user trusts the code.
    """
    problem = find_sandbox()
    if problem and not trust:
        raise ValueError(
            f"{problem}; without it, an answer's code would run with your rights: install bubblewrap, or give --trust"
        )
    return problem is None


def start_process(
    arguments: Sequence[str],
    limits: Limits,
    *,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    sandboxed: bool = True,
) -> subprocess.Popen[bytes]:
    """Start Python with `arguments`, its stdin and stdout being pipes; end it with `end_process`.

    Args:
        arguments: of Python.
        limits: of the process; `limits.seconds` is for the caller to watch.
        readable: files and folders that it can read besides Python, its packages and this project.
        writable: folders that it can write to.
        sandboxed: whether to run in bubblewrap; otherwise with the user's rights, but within the limits.
    """
    environment = {"PYTHONPATH": str(PROJECT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    command = [sys.executable, "-s", *arguments]
    filter_file = None
    if sandboxed:
        filter_file = os.memfd_create("seccomp")
        os.write(filter_file, _no_new_processes())
        os.lseek(filter_file, 0, os.SEEK_SET)
        command = _bubblewrap(environment, readable, writable, filter_file) + command

    def limit():
        for kind, value in (
            (resource.RLIMIT_AS, limits.memory),
            (resource.RLIMIT_FSIZE, limits.file_size),
            (resource.RLIMIT_CORE, 0),
        ):
            _, most = resource.getrlimit(kind)  # which nobody but root can raise
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))

    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            pass_fds=() if filter_file is None else (filter_file,),
            preexec_fn=limit,
            start_new_session=True,
        )
    finally:
        if filter_file is not None:
            os.close(filter_file)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and, with its namespace, all that it started; return once it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def _bubblewrap(
    environment: dict[str, str], readable: Sequence[Path], writable: Sequence[Path], filter_file: int
) -> list[str]:
    packages = [sys.prefix, sys.base_prefix, *site.getsitepackages()]
    project = [PROJECT / "encoders", PROJECT / "jaxsd", PROJECT / "configs"]
    seen = [Path(path).absolute() for path in (*SYSTEM, *packages, *project, *readable) if Path(path).exists()]
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(TEMPORARY_BYTES), "--tmpfs", "/tmp"]
    for path in dict.fromkeys(seen):
        command += ["--ro-bind", str(path), str(path)]
    for path in writable:
        command += ["--bind", str(path.absolute()), str(path.absolute())]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return [*command, "--seccomp", str(filter_file), "--chdir", "/tmp", "--"]


def _no_new_processes() -> bytes:
    """A seccomp filter in classic BPF: clone without CLONE_THREAD and its kin fail with EPERM, clone3 with ENOSYS.

    The C library uses clone where clone3 is missing; unlike those of clone3, a filter can read the flags of clone.
    """
    architecture, clone, process_calls, clone3 = MACHINES[platform.machine()]
    load, equal, any_set, give = 0x20, 0x15, 0x45, 0x06
    allow, kill, refuse, missing = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the call
        (0x35, 0, 1, 0x40000000),  # at or above: x86-64's second set of numbers (x32)
        (give, 0, 0, kill),
        (equal, 0, 1, clone3),
        (give, 0, 0, missing),
    ]
    for call in process_calls:
        program += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    program += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),  # the flags, lower half
        (any_set, 1, 0, 0x00010000),  # CLONE_THREAD
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
