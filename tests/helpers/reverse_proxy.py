"""A reverse proxy that puts a server under a path, as nginx does with `location /demo/ {proxy_pass http://host/;}`."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}


@contextmanager
def proxied(port: int, prefix: str) -> Iterator[str]:
    """The address, prefix included, at which the server at a port of this machine is reached."""

    class Proxy(BaseHTTPRequestHandler):
        def forward(self):
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in OF_ONE_CONNECTION}
            server = http.client.HTTPConnection("127.0.0.1", port)
            server.request(self.command, self.path.removeprefix(prefix), body, headers)
            answer = server.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in OF_ONE_CONNECTION:
                    self.send_header(name, value)
            self.end_headers()
            try:
                while part := answer.read1(65536):  # events go on as they come
                    self.wfile.write(part)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the browser has left
            finally:
                server.close()

        do_GET = do_POST = do_HEAD = forward

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}{prefix}"
        proxy.shutdown()
