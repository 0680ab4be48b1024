"""A local server that speaks OpenAI's protocol of chat completions, and misbehaves where it is told to."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 400, "completion_tokens": 200, "total_tokens": 600}


class ChatServer(ThreadingHTTPServer):
    """Each request takes the next of `replies`: a text to answer with, a number to fail with, "!cut" or "!json"."""

    daemon_threads = True

    def __init__(self, replies: Sequence[str | int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.requests = list(replies), []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, format, *args):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request | {"authorization": self.headers["Authorization"]})
        reply = self.server.replies.pop(0)
        if isinstance(reply, int):
            self._send(reply, {"error": {"message": f"error {reply}", "type": "test"}})
        elif request.get("stream"):
            self._stream(reply)
        elif reply == "!cut":
            self._send_headers(200, "application/json", 1000)
            self.wfile.write(b'{"choices": [')
        elif reply == "!json":
            self._send_body(200, b"{this is no JSON")
        else:
            message = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
            self._send(200, self._completion("chat.completion", [message]) | {"usage": USAGE})

    def _stream(self, reply: str):
        self._send_headers(200, "text/event-stream", None)
        if reply == "!json":
            self.wfile.write(b"data: {this is no JSON\n\n")
            return
        for piece in (reply[i : i + 40] for i in range(0, len(reply), 40)):
            self._event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        if reply != "!cut":
            self._event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
            self._event([], USAGE)
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, choices: list, usage: dict | None = None):
        content = self._completion("chat.completion.chunk", choices) | {"usage": usage}
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def _completion(self, kind: str, choices: list) -> dict:
        return {"id": "1", "object": kind, "created": 0, "model": "test-model-2026", "choices": choices}

    def _send(self, status: int, content: dict):
        self._send_body(status, json.dumps(content).encode())

    def _send_body(self, status: int, body: bytes):
        self._send_headers(status, "application/json", len(body))
        self.wfile.write(body)

    def _send_headers(self, status: int, kind: str, length: int | None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


@contextmanager
def chat_server(replies: Sequence[str | int]) -> Iterator[ChatServer]:
    server = ChatServer(replies)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
