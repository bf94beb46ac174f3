"""A headless Chromium for the tests of pages, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

KEYS = {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Tab": "\ue004",
        "End": "\ue010", "Home": "\ue011"}  # fmt: skip
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
              "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]  # fmt: skip


def missing() -> str | None:
    """Why there is no browser here, if there is none."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


class Page:
    def __init__(self, session: str) -> None:
        self.session = session

    def call(self, path: str, **data: Any) -> Any:
        return _ask(f"{self.session}/{path}", data)

    def open(self, file: Path) -> None:
        self.call("url", url=file.resolve().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script returns."""
        return self.call("execute/sync", script=script, args=list(arguments))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, where the focus is."""
        actions = [
            {"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")
        ]  # fmt: skip
        self.call("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def click(self, x: int, y: int) -> None:
        moves = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self.call("actions", actions=[{"type": "pointer", "id": "mouse", "actions": moves}])

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(_ask(f"{self.session}/screenshot", None)))

    def faults(self) -> list[Any]:
        """What the page wrote to the console as errors, requests that failed among them."""
        return [entry for entry in self.call("se/log", type="browser") if entry["level"] == "SEVERE"]


def _ask(url: str, data: Any, method: str | None = None) -> Any:
    body = None if data is None else json.dumps(data).encode()
    request = Request(url, body, {"Content-Type": "application/json"}, method=method)
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextmanager
def browser(width: int, height: int, *, dark: bool = False) -> Iterator[Page]:
    """A page of that many CSS pixels; a phone's if it is narrow."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        try:
            arguments = [*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
            options: dict[str, Any] = {"args": arguments + ["--force-dark-mode"] * dark, "binary": shutil.which("chromium")}
            if width < 500:
                options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            base = f"http://127.0.0.1:{port}"
            _wait(base)
            session = _ask(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            yield Page(f"{base}/session/{session}")
            _ask(f"{base}/session/{session}", None, "DELETE")
        finally:
            driver.terminate()
            driver.wait(10)


def _wait(base: str) -> None:
    until = monotonic() + 20
    while not _answers(base):
        assert monotonic() < until, "chromedriver does not answer"
        sleep(0.05)


def _answers(base: str) -> bool:
    try:
        return bool(_ask(f"{base}/status", None)["ready"])
    except (URLError, ConnectionError):
        return False
