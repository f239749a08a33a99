"""An OpenAI-compatible server with every fault it can have, a book to ask about, and an answer that is right."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from generic_logits.discovery.language_model import LanguageModelConfig
from generic_logits.text.corpus import Document

NAMES = ("Mira Voss", "Orrin", "Hale", "Tamsin", "Quill", "Bexley")
ANSWER = {
    "anchors": [
        {"term": "Mira Voss", "kind": "person", "gender": "female", "translations": ["Anna Moss", "Lena Hart"]},
        {"term": "Orrin", "kind": "place", "gender": "none", "translations": ["Alder"]},
    ]
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def document(*paragraphs: str, name: str = "book.txt") -> Document:
    return Document(name, "\n\n".join(paragraphs), "")


def book(passages: int = 4) -> list[Document]:
    """As many passages of some 100 characters, each with a name of its own."""
    return [
        document(
            f"Mira Voss went down to {NAMES[at]} number {at} before dawn. " + "The sea was grey. " * 3, name=f"{at}"
        )
        for at in range(passages)
    ]


def entry(term: str, *translations: str, kind: str = "person", gender: str = "none") -> dict[str, Any]:
    return {"term": term, "kind": kind, "gender": gender, "translations": list(translations)}


class Answer:
    """What the endpoint does with one request: a status, a body, headers, and how long it takes."""

    def __init__(self, content: Any = ANSWER, *, status: int = 200, finish: str = "stop", **more: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        self.status = status
        self.body: Any = more.get("body", {"choices": [choice]})
        self.headers: dict[str, str] = more.get("headers", {})
        self.seconds: float = more.get("seconds", 0)


def fault(status: int, message: str = "no", **headers: str) -> Answer:
    body = {"error": {"message": message}}
    return Answer(status=status, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


class Endpoint:
    """A server on a port of its own; ``script`` says what it answers to the n-th question."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.listed = 0
        self.models = ["tiny"]
        self.roots: dict[str, str] = {}
        self.everywhere: Answer | None = None  # what it answers to everybody, if it is no such server at all
        self.path = "/v1/chat/completions"
        self.script: Callable[[int, dict[str, Any]], Answer] = lambda number, body: Answer()
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                endpoint.listed += 1
                found = self.path == "/v1/models"
                now = time.time_ns()  # as vLLM's, each time another
                models = [{"id": name, "root": endpoint.roots.get(name), "created": now} for name in endpoint.models]
                self._send(Answer(body={"data": models}) if found else fault(404, "Not Found"))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.questions.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                    endpoint.times.append(time.monotonic())
                    number = len(endpoint.questions)
                found = self.path == endpoint.path
                self._send(endpoint.script(number, body) if found else fault(404, "Not Found"))

            def _send(self, answer: Answer) -> None:
                answer = endpoint.everywhere or answer
                time.sleep(answer.seconds)
                raw = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
                try:
                    self.send_response(answer.status)
                    for name, value in {**answer.headers, "Content-Length": str(len(raw))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:
                    self.close_connection = True  # the client has gone

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def passages(self) -> list[str]:
        """The names in the questions, in order: which passages were asked about."""
        return [next(name for name in NAMES if f"to {name}" in text) for text in map(prompt_of, self.questions)]


def prompt_of(question: dict[str, Any]) -> str:
    (message,) = question["messages"]
    assert message["role"] == "user"
    return message["content"]


def cached(config: LanguageModelConfig) -> int:
    files = list(config.cache_folder.iterdir()) if config.cache_folder.exists() else []
    assert all(file.suffix == ".json" and len(file.stem) == 64 for file in files)
    return len(files)
