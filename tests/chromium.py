"""A real headless Chromium for tests of pages, driven through its DevTools protocol over a pipe: no driver, no port.

with Chromium() as chromium:
    page = chromium.open(path)
    page.evaluate("document.title")
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Where Chromium is; None where it is not."""
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"),
    *("--disable-extensions", "--disable-background-networking", "--no-first-run", "--force-color-profile=srgb"),
)
_KEYS = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, " ": 32}


class Chromium:
    """A browser without a window. Its messages go through two pipes, each ended by a zero byte."""

    def __enter__(self) -> Chromium:
        assert PROGRAM
        self._home = tempfile.mkdtemp(prefix="chromium-")
        to_it, self._write = os.pipe()
        self._read, from_it = os.pipe()
        words = [PROGRAM, *_FLAGS, f"--user-data-dir={self._home}", "about:blank"]
        shell = f'exec "$@" 3<&{to_it} 4>&{from_it}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "-", *words],
            pass_fds=(to_it, from_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_it)
        os.close(from_it)
        self._buffer, self._number, self.events = b"", 0, []
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, path: Path, fragment: str = "", width: int = 1280, height: int = 900) -> Page:
        """A new tab that has loaded a file."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        page.go(path, fragment)
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            found = self.next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def next(self) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def go(self, path: Path, fragment: str = "") -> None:
        """Load a file, until its load event."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def size(self, width: int, height: int = 900, mobile: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def media(self, media: str = "", scheme: str = "light") -> None:
        """Emulate print (`media`) and a colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def evaluate(self, code: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, code: str, seconds: float = 20) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(code):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """A key stroke as a person makes it."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def problems(self) -> list[str]:
        """Exceptions, console errors and refusals of the policy so far, in all tabs; and whatever left the file system."""
        self.evaluate("new Promise((done) => setTimeout(done, 50))")
        found = []
        for event in self._browser.events:
            kind, said = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown" or (kind == "Log.entryAdded" and said["entry"]["level"] == "error"):
                found.append(json.dumps(said)[:600])
            if kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
                found.append(json.dumps(said)[:600])
            if kind == "Network.requestWillBeSent" and not said["request"]["url"].startswith(
                ("file:", "data:", "about:")
            ):
                found.append(f"requested {said['request']['url']}")
        return found

    def screenshot(self, path: Path, whole: bool = False) -> None:
        parameters: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
            parameters |= {"clip": clip, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **parameters)["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])
