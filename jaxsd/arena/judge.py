"""Judge a design: its code runs in a sandbox, its outputs come here as arrays, and the contract is checked here.

The code of a design can lie only about what its own process computes. It never sees the verdict, and no answer of its
process is one. Layers and FLOPs are what that process counts; the parameters are counted here from their shapes.
"""

import io
import json
import math
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from jaxsd.arena.code import Refused, check_places, extract_code
from jaxsd.arena.prompts import Prompt
from jaxsd.arena.sandbox import Limits, choose_sandbox, end_process, start_process

LARGEST_HEADER = 1 << 20  # bytes of a line from the sandbox
LARGEST_ARRAY = 1 << 26  # bytes
MOST_NAMES = 10_000  # of parameters, layers or modules


@dataclass
class Verdict:
    """What became of one answer.

    reason: the category for which it was ruled out, or None. problem: what was wrong. clauses: each clause that was
    checked, with what was wrong or None. parameters: their number. layers, flops, graph: as the design's own process
    counts them. seconds: of the check.
    """

    reason: str | None = None
    problem: str | None = None
    clauses: list[tuple[str, str | None]] = field(default_factory=list)
    parameters: int | None = None
    layers: dict[str, int] = field(default_factory=dict)
    flops: int | None = None
    graph: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Verdict":
        """What `to_json` gave, read from a file. Raises TypeError, KeyError or ValueError for anything else."""
        clauses: Any = [(clause, problem) for clause, problem in content["clauses"]]
        return cls(**{**content, "clauses": clauses})


def judge_answer(answer: str, path: Path, prompt: Prompt, limits: Limits, trust: bool = False) -> Verdict:
    """The verdict on an answer, whose code is written to `path` where there is any.

    Args:
        answer: the text of the answer.
        path: where the code goes: a file in a folder that is there.
        prompt: which was answered.
        limits: of the sandbox, for each of the two processes that check a design.
        trust: whether to run the code without a sandbox where there is none.

    Raises:
        ValueError: there is no sandbox, and the code is not trusted.
    """
    sandboxed = choose_sandbox(trust)
    verdict, started = Verdict(), time.monotonic()
    try:
        code = extract_code(answer)
        path.write_text(code, encoding="utf-8")
        check_places(code, prompt)
        _check_design(verdict, path, prompt, limits, sandboxed)
    except Refused as refused:
        verdict.reason, verdict.problem = refused.reason, str(refused)
    verdict.seconds = round(time.monotonic() - started, 2)
    return verdict


def _check_design(verdict: Verdict, path: Path, prompt: Prompt, limits: Limits, sandboxed: bool) -> None:
    """Fill in the verdict. Raises Refused at the first clause that fails."""
    from encoders.contract import probe_clips

    clips = probe_clips()
    pcm = np.stack(list(clips.values()))
    if prompt.framework == "torch":
        pcm_to_send = pcm.astype(np.float32)  # as the paper's training gives it
    else:
        pcm_to_send = pcm

    def passed(clause: str, problem: str | None, reason: str) -> None:
        verdict.clauses.append((clause, problem))
        if problem:
            raise Refused(reason, f"{clause}: {problem}")

    with _running(path, prompt, limits, sandboxed) as design:
        shapes = _attempted(lambda: design.request("build"), verdict, "is constructed", "not constructed")
        verdict.parameters = _count_parameters(shapes.get("parameters"))
        together = _attempted(
            lambda: design.encode(pcm_to_send),
            verdict,
            f"maps (batch, 16000) to (batch, 77, {prompt.width})",
            "wrong shape",
        )
        bad = [name for name, y in zip(clips, together, strict=True) if not np.isfinite(y).all()]
        passed(f"is finite on {', '.join(clips)}", f"not on {', '.join(bad)}" if bad else None, "not finite")
        if prompt.framework == "nnx":
            compiled = _attempted(
                lambda: design.encode(pcm_to_send, "compiled"), verdict, "runs under jax.jit", "not under jit"
            )
            passed("computes the same under jax.jit", _difference(clips, compiled, together), "not under jit")
        alone = np.concatenate([design.encode(clip[None]) for clip in pcm_to_send])
        passed("computes the same for a clip in any batch", _difference(clips, alone, together), "depends on the batch")
        counts = design.request("count")
    # A second process cannot remember what the first answered.
    with _running(path, prompt, limits, sandboxed) as design:
        design.request("build")
        again = design.encode(pcm_to_send)
        passed(
            "is deterministic from one process to the next", _difference(clips, again, together), "not deterministic"
        )
    verdict.layers = _counts(counts.get("layers"))
    verdict.flops = counts["flops"] if type(counts.get("flops")) is int else None
    graph = counts.get("graph")
    verdict.graph = [str(name)[:80] for name in graph[:MOST_NAMES]] if isinstance(graph, list) else []


def _attempted(compute, verdict: Verdict, clause: str, reason: str) -> Any:
    """The result of a clause; what the design raised rules it out for `reason`."""
    try:
        result = compute()
    except Refused as refused:
        refused.reason = reason if refused.reason == "raised" else refused.reason
        verdict.clauses.append((clause, str(refused)))
        raise
    verdict.clauses.append((clause, None))
    return result


class RunningDesign:
    """A design that runs in a process of its own. All requests together have `limits.seconds`."""

    def __init__(self, process: subprocess.Popen[bytes], width: int, limits: Limits):
        self.process = process
        self.width = width
        self.deadline = time.monotonic() + limits.seconds
        self.limits = limits
        self.buffer = bytearray()

    def encode(self, pcm: Int16[np.ndarray, "n 16000"] | Float[np.ndarray, "n 16000"], do: str = "encode"):
        """The float32 outputs (n, 77, width). Raises Refused for anything else."""
        file = io.BytesIO()
        np.save(file, pcm)
        data = self.request(do, file.getvalue())["data"]
        try:
            y = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError, SyntaxError, MemoryError):
            raise Refused("wrong shape", "what it returns is no array") from None
        if y.shape != (len(pcm), 77, self.width) or y.dtype.kind != "f":
            raise Refused("wrong shape", f"returns {y.dtype} of shape {y.shape} for {len(pcm)} clips")
        return y.astype(np.float32)

    def request(self, do: str, data: bytes = b"") -> dict[str, Any]:
        """The answer to a request, its bytes as "data". Raises Refused where there is none in time."""
        self._write(json.dumps({"do": do, "bytes": len(data)}).encode() + b"\n" + data)
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > LARGEST_HEADER:
                raise Refused("broken answer", "the process of the design wrote what is no answer")
            self._read()
        header, self.buffer = bytes(self.buffer[:end]), self.buffer[end + 1 :]
        try:
            answer = json.loads(header)
            size = answer["bytes"]
            if type(size) is not int or not 0 <= size <= LARGEST_ARRAY:
                raise ValueError(size)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused("broken answer", "the process of the design wrote what is no answer") from None
        while len(self.buffer) < size:
            self._read()
        answer["data"], self.buffer = bytes(self.buffer[:size]), self.buffer[size:]
        if "error" in answer:
            text = str(answer["error"])[:1000]
            memory = "MemoryError" in text or "RESOURCE_EXHAUSTED" in text or "bad_alloc" in text
            raise Refused("memory" if memory else "raised", text)
        return answer

    def _write(self, data: bytes) -> None:
        assert self.process.stdin
        file = self.process.stdin.fileno()
        while data:
            self._wait([], [file])
            try:
                data = data[os.write(file, data[:4096]) :]
            except BrokenPipeError:
                self._ended()

    def _read(self) -> None:
        assert self.process.stdout
        file = self.process.stdout.fileno()
        self._wait([file], [])
        if not (data := os.read(file, 1 << 16)):
            self._ended()
        self.buffer += data

    def _wait(self, reading: list[int], writing: list[int]) -> None:
        if not any(select.select(reading, writing, [], max(self.deadline - time.monotonic(), 0))):
            raise Refused("time", f"it did not answer within {self.limits.seconds:g} seconds")

    def _ended(self):
        raise Refused("ended", "the process of the design ended, as on a crash or beyond its memory")


@contextmanager
def _running(path: Path, prompt: Prompt, limits: Limits, sandboxed: bool) -> Iterator[RunningDesign]:
    process = start_process(
        ["-m", "jaxsd.arena.worker", str(path.absolute()), prompt.framework],
        limits,
        readable=[path],
        sandboxed=sandboxed,
    )
    try:
        yield RunningDesign(process, prompt.width, limits)
    finally:
        end_process(process)


def _count_parameters(shapes: object) -> int:
    if not isinstance(shapes, dict) or len(shapes) > MOST_NAMES:
        raise Refused("broken answer", "the process of the design named no parameters")
    if not all(isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) for shape in shapes.values()):
        raise Refused("broken answer", "the process of the design named no shapes of parameters")
    return sum(math.prod(shape) for shape in shapes.values())


def _counts(layers: object) -> dict[str, int]:
    if not isinstance(layers, dict):
        return {}
    return {str(name)[:80]: n for name, n in list(layers.items())[:MOST_NAMES] if type(n) is int}


def _difference(clips: dict[str, Any], actual: np.ndarray, expected: np.ndarray) -> str | None:
    from encoders.contract import TOLERANCE

    worst = np.abs(actual - expected).max(axis=(1, 2))
    i = int(worst.argmax())
    if worst[i] <= TOLERANCE * expected.std():
        return None
    return f"{list(clips)[i]} differs by {worst[i]:.2g}, where outputs deviate by {expected.std():.2g}"
