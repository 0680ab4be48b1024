import json
import sys

import pytest

from jaxsd.arena import judge
from jaxsd.arena.__main__ import main
from jaxsd.arena.answers import add_answer, read_design, read_designs
from jaxsd.arena.chat import Chatbot, ask_for_designs
from jaxsd.arena.prompts import Prompt, prompt_versions, read_prompts
from jaxsd.arena.sandbox import Limits
from tests.helpers.chat_server import chat_server
from tests.helpers.designs import answer, design, linear

pytest.importorskip("openai")
LIMITS = Limits(seconds=60)


@pytest.fixture(autouse=True)
def no_code_runs(monkeypatch):
    """A design that can be read is accepted: what its code does is judged in test_judge.py."""
    monkeypatch.setattr(judge, "_check_design", lambda *_: None)


def ask(server, out, *, stream=False, designs=1, attempts=6):
    chatbot = Chatbot("test", server.url, {"temperature": 0.5}, stream=stream, attempts=attempts, wait=0.01)
    return ask_for_designs(chatbot, Prompt(), out, name="d", designs=designs, tries=3, limits=LIMITS, trust=True)


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_retried_and_bad_answers_cost_a_try(stream, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    good = answer(linear(32))
    replies = [429, 500, "!cut", "!json", "no code at all", answer(design()) * 2, 503, good]
    with chat_server(replies) as server:
        (found,) = ask(server, tmp_path, stream=stream)
        assert not server.replies and len(server.requests) == 8
        # Every conversation is a fresh one.
        messages = [request["messages"] for request in server.requests]
        assert all(message == [{"role": "user", "content": Prompt().render()}] for message in messages)
        assert server.requests[0]["authorization"] == "Bearer the-key"
    assert [verdict.reason for verdict in found.verdicts] == ["no code", "several blocks", None]
    kept = [json.loads((tmp_path / "d-1" / f"try-{i}.json").read_text()) for i in (1, 2, 3)]
    assert kept[2]["text"] == good and kept[2]["model"] == "test-model-2026" and kept[2]["usage"]["total_tokens"] == 600
    assert kept[0]["parameters"] == {"temperature": 0.5} and kept[0]["time"].endswith("Z")
    assert found.tokens == 1800 and found.code.read_text() == linear(32)
    assert not any(b"the-key" in path.read_bytes() for path in tmp_path.rglob("*.json"))


def test_asking_goes_on_where_it_stopped(tmp_path):
    with chat_server([answer(linear(32)), "no code", 500]) as server, pytest.raises(OSError, match="HTTP 500"):
        ask(server, tmp_path, designs=2, attempts=1)
    (tmp_path / "d-1" / "verdict-1.json").unlink()  # as if stopped between answer and verdict
    with chat_server(["no code", "no code"]) as server:
        first, second = ask(server, tmp_path, designs=2)
        assert not server.replies
    assert first.accepted and len(first.answers) == 1
    assert not second.accepted and len(second.answers) == 3
    assert [found.name for found in read_designs(tmp_path)] == ["d-1", "d-2"]
    with chat_server([]) as server:
        ask(server, tmp_path, designs=2)  # nothing is left to ask


def test_a_refused_request_is_one_sentence(tmp_path):
    with chat_server([401]) as server, pytest.raises(ValueError, match="refuses the request"):
        ask(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_endpoint_that_is_not_there_is_one_sentence(tmp_path):
    with chat_server([]) as server:
        pass
    with pytest.raises(OSError, match="no answer in 2 attempts"):
        ask(server, tmp_path, attempts=2)


def test_pasted_answers_are_tries_too(tmp_path):
    text, code, out = tmp_path / "answer.md", tmp_path / "answer.py", tmp_path / "arena"
    text.write_text("no code")
    code.write_text(design())
    assert add_answer(out, text, "mine", Prompt(), LIMITS, True).reason == "no code"
    assert add_answer(out, code, "mine", Prompt(), LIMITS, True).accepted
    assert len(read_design(out / "mine").answers) == 2
    with pytest.raises(ValueError, match="is accepted"):
        add_answer(out, code, "mine", Prompt(), LIMITS, True)
    with pytest.raises(ValueError, match="name of a design"):
        add_answer(out, code, "../mine", Prompt(), LIMITS, True)


def test_the_prompt_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["arena", "ask", "--print-prompt", "--framework", "torch", "--scale", "told"])
    main()
    text = capsys.readouterr().out
    assert "PyTorch" in text and "standard deviation near 1" in text and "x.view((-1, 1, 16000)) / 32767" in text


def test_every_variant_of_every_version_is_a_prompt_of_its_own():
    for version in prompt_versions():
        source = read_prompts(version)
        texts = [
            Prompt(version, framework, architecture, data, scale).render()
            for framework in source["frameworks"]
            for architecture in source["architecture"]
            for data in source["data"]
            for scale in source["scale"]
        ]
        assert len(set(texts)) == len(texts) and not any("{" in text for text in texts)
    with pytest.raises(ValueError, match="architecture"):
        Prompt(architecture="gothic").render()
