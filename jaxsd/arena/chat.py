"""Ask a chatbot, by way of any endpoint that speaks OpenAI's protocol."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxsd.arena.answers import AnsweredDesign, check_name, judge_last, keep_answer, read_design
from jaxsd.arena.prompts import Prompt
from jaxsd.arena.sandbox import Limits, choose_sandbox

API_KEY = "OPENAI_API_KEY"  # the variable of the environment, the only place of the key
LONGEST_WAIT = 60.0  # seconds between two attempts


class _Unusable(Exception):
    """A reply that is no answer: cut off, or not of the protocol."""


@dataclass(frozen=True)
class Chatbot:
    """A model at an endpoint.

    parameters: of the request, such as temperature. stream: whether the answer comes in pieces. attempts: how often a
    request is made that a rate limit or the network stops. wait: seconds before the second attempt; it doubles.
    """

    model: str
    base_url: str
    parameters: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    attempts: int = 6
    wait: float = 2.0
    timeout: float = 600.0

    def ask(self, text: str) -> dict[str, Any]:
        """The answer to `text` in a fresh conversation: "text", "model", "usage", "finish_reason".

        Raises ValueError where the endpoint refuses the request, and OSError where no attempt succeeds.
        """
        try:
            import openai
        except ImportError:
            raise ValueError("asking a chatbot needs the openai client: pip install 'jaxsd[arena]'") from None
        client = openai.OpenAI(
            base_url=self.base_url, api_key=os.environ.get(API_KEY, "none"), max_retries=0, timeout=self.timeout
        )
        receive: Callable[..., dict[str, Any]] = self._receive_stream if self.stream else self._receive
        request = {"model": self.model, "messages": [{"role": "user", "content": text}], **self.parameters}
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(self.wait * 2 ** (attempt - 1), LONGEST_WAIT))
            try:
                return receive(client, request)
            except (openai.RateLimitError, openai.InternalServerError) as error:
                problem = f"HTTP {error.status_code}"
            except openai.APIStatusError as error:
                raise ValueError(f"{self.base_url} refuses the request: {error.message}") from None
            except (openai.OpenAIError, _Unusable, json.JSONDecodeError) as error:
                problem = str(error)
            except Exception as error:  # what the HTTP client below raises while an answer streams
                if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
                    raise
                problem = str(error)
        raise OSError(f"{self.base_url} gave no answer in {self.attempts} attempts; the last: {problem}")

    def _receive(self, client: Any, request: dict[str, Any]) -> dict[str, Any]:
        reply = client.chat.completions.create(**request)
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
            raise _Unusable("the reply is not of the protocol")
        return {
            "text": choices[0].message.content or "",
            "model": reply.model,
            "usage": reply.usage.to_dict() if reply.usage else None,
            "finish_reason": choices[0].finish_reason,
        }

    def _receive_stream(self, client: Any, request: dict[str, Any]) -> dict[str, Any]:
        pieces, known = [], {"model": self.model, "usage": None, "finish_reason": None}
        for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
            known["model"] = chunk.model or known["model"]
            if chunk.usage:
                known["usage"] = chunk.usage.to_dict()
            for choice in chunk.choices or []:
                pieces.append(choice.delta.content or "")
                known["finish_reason"] = choice.finish_reason or known["finish_reason"]
        if known["finish_reason"] is None:
            raise _Unusable("the answer was cut off")
        return {"text": "".join(pieces), **known}


def ask_for_designs(
    chatbot: Chatbot,
    prompt: Prompt,
    out: Path,
    *,
    name: str,
    designs: int,
    tries: int,
    limits: Limits,
    trust: bool,
) -> list[AnsweredDesign]:
    """Ask for designs until each is accepted or has had its tries; goes on where it stopped.

    Args:
        chatbot: who is asked.
        prompt: what is asked.
        out: folder of the arena.
        name: of the designs, which are <name>-1, <name>-2 and so on.
        designs: how many.
        tries: how often at most each is asked for, every time in a fresh conversation.
        limits: of the sandbox.
        trust: whether to run code without a sandbox where there is none.

    Raises:
        ValueError: the endpoint refuses the request, there is no sandbox, or OUT holds answers to another question.
        OSError: the endpoint gives no answer.
    """
    choose_sandbox(trust)  # refuses before tokens are paid for
    text = prompt.render()
    found = []
    for number in range(1, designs + 1):
        design = read_design(out / check_name(f"{name}-{number}"))
        for answer in design.answers:
            if answer["prompt"] != prompt.to_json() or answer.get("asked") not in (None, chatbot.model):
                raise ValueError(f"{design.folder} holds answers to another prompt or model; choose another --name")
        while not (design.answers and judge_last(design, limits, trust).accepted) and len(design.answers) < tries:
            started = time.time()
            reply = chatbot.ask(text)
            keep_answer(
                design,
                reply.pop("text"),
                prompt,
                asked=chatbot.model,
                parameters=chatbot.parameters,
                time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                seconds=round(time.time() - started, 2),
                **reply,
            )
            print(describe_verdict(design, limits, trust), file=sys.stderr)
        found.append(design)
    return found


def describe_verdict(design: AnsweredDesign, limits: Limits, trust: bool) -> str:
    """One line on the last try."""
    verdict = judge_last(design, limits, trust)
    result = "accepted" if verdict.accepted else f"ruled out ({verdict.reason}): {verdict.problem}"
    return f"{design.name}, try {len(design.answers)}: {result}"
