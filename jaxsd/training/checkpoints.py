"""A run's checkpoints: whole or absent, written in the background, the newest few kept."""

import asyncio
import errno
import logging
import os
import shutil
import sys
import threading
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

DRAIN = 60.0  # seconds that writes may take once one has failed


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that is closed when its tasks have ended.

    Orbax closes its loops when a write has failed. The threads of the other writes would then print tracebacks.
    """

    def close(self):
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.wait(tasks, timeout=DRAIN))
        super().close()


class Checkpoints:
    """The folder `<folder>/<step>` of each checkpoint, by Orbax; all processes of a job save and restore together.

    A context manager around all that writes to the run: leaving it waits for the save under way. A full disk, met by
    a save or by anything else in between, leaves it as an OSError of one sentence; the checkpoints before stay whole.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def __enter__(self):
        # Orbax logs the tracebacks of the errors that it raises.
        self.log, self.level = logging.getLogger("absl"), logging.getLogger("absl").level
        self.log.setLevel(logging.CRITICAL)
        self.new_loop, asyncio.new_event_loop = asyncio.new_event_loop, _Loop
        options = ocp.CheckpointManagerOptions(max_to_keep=self.keep, cleanup_tmp_directories=True)
        self.manager = ocp.CheckpointManager(self.folder, options=options)
        return self

    def __exit__(self, _, error, __):
        late = None
        try:
            self.manager.close()
        except Exception as raised:
            late = raised
        if error or late:
            _join_writers()
        asyncio.new_event_loop = self.new_loop
        self.log.setLevel(self.level)
        if any(_disk_is_full(raised) for raised in (error, late)):
            raise OSError(self._full()) from None
        if late and not error:
            raise late

    def restore(self, state: PyTree) -> PyTree:
        """The newest checkpoint, with the shapes, dtypes and places of `state`; `state` itself where there is none.

        One that cannot be read is passed over for the one before it, with a line on stderr, and removed. Raises
        ValueError where there are some and none can be read.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        unreadable = []
        for step in steps:
            try:
                restored = self.manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # whatever a broken file makes Orbax raise
                reason = " ".join(str(error).split())[:200]
                unreadable.append(f"{self.folder / str(step)} cannot be read ({reason})")
                continue
            for broken, message in zip(steps, unreadable, strict=False):
                self.manager.delete(broken)
                if jax.process_index() == 0:
                    print(f"{message}; going on from step {step}", file=sys.stderr, flush=True)
            return restored
        if unreadable:
            raise ValueError(f"{unreadable[0]}, nor any checkpoint before it; remove {self.folder} to start anew")
        return state

    def save(self, step: int, state: PyTree):
        """Begin to save `state`, once the save before it has ended; `state` may be donated as soon as this returns."""
        self.manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def check(self):
        """Raise what ended the last save early, if that happened."""
        if not self.manager.is_saving_in_progress():
            self.manager.wait_until_finished()

    def _full(self) -> str:
        for part in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(part, ignore_errors=True)
        whole = ocp.utils.checkpoint_steps(self.folder)
        kept = f"the checkpoint of step {max(whole)} is whole" if whole else "no checkpoint was there yet"
        return f"{self.folder}: no space left on the disk; {kept}; make space and run the same command to go on"


def _join_writers():
    """Wait for Orbax's threads that write: its manager waits for none of them once one has failed."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith(ocp.__name__) or thread.name == "async_save":
            threading.Thread.join(thread, DRAIN)  # their own raises again what ended them


def _disk_is_full(error: BaseException | None) -> bool:
    """Also where the error's number is lost in another's text."""
    return error is not None and any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
