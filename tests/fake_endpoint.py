"""A server in this process that answers like an OpenAI-compatible endpoint, or misbehaves as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fake:
    """behave: (path, request body, number of the request from 1) -> (status, headers, body), or None to answer well."""

    url: str = ""
    models: tuple[str, ...] = ("small",)
    behave: Callable[[str, dict[str, Any], int], Any] = lambda path, body, number: None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)


def good(path: str, body: dict[str, Any], *, model: str | None = None, text: str | None = None) -> dict[str, Any]:
    """A decent response; its text follows from prompt, temperature and seed."""
    chat = path.endswith("/chat/completions")
    asked = body["messages"][-1]["content"] if chat else body["prompt"]
    text = f"about {asked} ({body.get('seed')})" if text is None else text
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    words = [f" {word}" for word in text.split()]
    if chat and body.get("logprobs"):
        tops = [{"token": f" alt{k}", "logprob": -1.0 - k, "bytes": None} for k in range(body["top_logprobs"])]
        entries = [{"token": w, "logprob": -0.5, "bytes": list(w.encode()), "top_logprobs": tops} for w in words]
        choice["logprobs"] = {"content": entries}
    if not chat and body.get("logprobs"):
        top = {f" alt{k}": -1.0 - k for k in range(body["logprobs"])}
        choice["logprobs"] = {
            "tokens": words,
            "token_logprobs": [-0.5] * len(words),
            "top_logprobs": [top] * len(words),
        }
    return {
        "id": "x", "model": model or body["model"], "system_fingerprint": "fp1", "choices": [choice],
        "usage": {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)},
    }  # fmt: skip


@contextlib.contextmanager
def fake(behave: Callable[..., Any] | None = None, **options: Any) -> Iterator[Fake]:
    """Serves on a free port of 127.0.0.1 until the block ends."""
    state = Fake(**options)
    if behave is not None:
        state.behave = behave

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in state.models]}
            self.reply(200, {}, json.dumps(listed).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.requests.append(body)
                state.headers.append(dict(self.headers))
                number = len(state.requests)
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                told = state.behave(self.path, body, number)
                if told is None:
                    told = 200, {}, good(self.path, body)
                status, headers, content = told
                if content is None:
                    self.close_connection = True
                    return
                self.reply(status, headers, content if isinstance(content, bytes) else json.dumps(content).encode())
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with state.lock:
                    state.at_once -= 1

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
