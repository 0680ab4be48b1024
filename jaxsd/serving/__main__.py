"""A page to play with, and its API: python generate.py --serve."""

import argparse
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from jaxsd.generation.model_arguments import add_model_arguments, add_trust_argument, load_model
from jaxsd.runtime import cli

PORT = 7860


def main() -> None:
    parser = cli.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--encoder",
        nargs="+",
        default=["gemini", "grok", "chatgpt", "deepseek", "human"],
        help="encoders that the page offers; the first is chosen (the five bundled ones)",
    )
    add_model_arguments(parser)
    add_trust_argument(parser)
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is open to the network (127.0.0.1)")
    add("--port", type=int, default=PORT, help=f"({PORT})")
    add("--auth", metavar="USER:FILE", help="ask for this user and the password in the file")
    add("--root-path", metavar="PATH", help="where a proxy in front of the server puts the page, such as /demo")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--queue", type=int, default=32, help="images that wait or are drawn (32)")
    limits.add_argument("--batch", type=int, default=4, help="images that a device draws at a time (4)")
    limits.add_argument("--max-steps", type=int, default=100, help="denoising steps of an image (100)")
    limits.add_argument("--max-pixels", type=int, default=512 * 512, help="of an image (262144)")
    limits.add_argument("--max-seconds", type=int, default=60, help="of an uploaded sound (60)")
    limits.add_argument("--max-megabytes", type=int, default=20, help="of an uploaded file (20)")
    add("--space", type=Path, metavar="DIR", help="write a Hugging Face Space into the folder, and end")
    parser.set_defaults(model="toy")
    arguments = parser.parse_args()

    if arguments.space:
        from jaxsd.serving.space import write_space

        for path in write_space(arguments.space):
            print(path)
        return
    if find_spec("gradio") is None:
        raise ValueError("the page needs Gradio; install it: pip install 'jaxsd[app]'")
    auth = read_password(arguments.auth) if arguments.auth else None
    _refuse_other_address(arguments.host, arguments.port)
    with _working_folder(arguments.port) as folder:
        _serve(arguments, auth, folder)


def read_password(auth: str) -> tuple[str, str]:
    """The user and the password of USER:FILE. Raises ValueError or FileNotFoundError."""
    user, _, path = auth.partition(":")
    if not user or not path:
        raise ValueError(f"--auth is {auth!r}; allowed: USER:FILE, where the file holds the password")
    password = Path(path).read_text(encoding="utf-8").strip()
    if not password:
        raise ValueError(f"{path} is empty; it holds the password of {user}")
    return user, password


def _refuse_other_address(host: str, port: int):
    """Raise ValueError where nothing can listen, before the models are loaded."""
    if not 0 < port < 2**16:
        raise ValueError(f"--port is {port}; allowed: 1 to {2**16 - 1}")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ValueError(f"the page cannot listen at {host}:{port}: {error.strerror}; see --host and --port") from None


def _serve(arguments: argparse.Namespace, auth: tuple[str, str] | None, folder: Path):
    """Load the models, then go to the folder, and serve the page until the process is ended."""
    from jaxsd.runtime.bundled import TOY_SAMPLES
    from jaxsd.serving.service import ImageService, ServiceLimits
    from jaxsd.serving.sounds import draw_sound, read_sound

    limits = ServiceLimits(
        queue=arguments.queue,
        batch=arguments.batch,
        steps=arguments.max_steps,
        pixels=arguments.max_pixels,
        seconds=arguments.max_seconds,
        megabytes=arguments.max_megabytes,
    )
    with ImageService(load_model(arguments, arguments.encoder), limits) as service:
        service.warm_up()
        draw_sound(read_sound(next(TOY_SAMPLES.glob("*.wav")), limits.seconds))  # imports what draws
        os.chdir(folder)
        from jaxsd.serving.page import launch_page

        page = launch_page(service, arguments.host, arguments.port, auth=auth, root_path=arguments.root_path)
        print(f"http://{arguments.host}:{arguments.port}{arguments.root_path or ''}", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


@contextmanager
def _working_folder(port: int) -> Iterator[Path]:
    """An empty folder for uploads, of this user and port. What a killed server left in it is removed."""
    from jaxsd.runtime.files import lock_folder

    folder = Path(tempfile.gettempdir()) / f"jaxsd-serve-{os.getuid()}-{port}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to somebody else; remove it, or choose another --port")
    with ExitStack() as stack:
        stack.callback(_remove_empty, folder)
        try:
            stack.enter_context(lock_folder(folder))
        except ValueError:
            raise ValueError(f"a server has the port {port} already; choose another --port") from None
        _empty(folder)
        stack.callback(_empty, folder)
        yield folder


def _remove_empty(folder: Path):
    with suppress(OSError):  # another server has it
        folder.rmdir()


def _empty(folder: Path):
    import shutil

    from jaxsd.runtime.files import LOCK

    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
