"""Exported models in JavaScript: in Node, and in a page of headless Chromium."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from needs import leave_out, need

from numlstm import nn
from numlstm.export import export, parts, targets
from numlstm.export.model_file import model_bytes

SOURCES = Path(__file__).parents[1] / "export" / "web"
TOLERANCE = 2.0**-20  # of what is not fused, beside Python's
FMA = "fma" in Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else None


def exported(module, folder):
    """An export with the files of the tests beside it."""
    export(module, folder, target="wasm32", echo=lambda line: None)
    for path in SOURCES.iterdir():
        shutil.copy(path, folder)
    return folder


def content_of(module):
    lstm, stages = parts(module) if isinstance(module, nn.Sequential) else (module, [])
    return model_bytes(
        lstm._panels, targets.WEB, [stage.packed(targets.WEB.lanes(lstm.dtype.name)) for stage in stages]
    )


def program(*names: str) -> str:
    """The path of the first of these programs that there is."""
    for name in names:
        if path := shutil.which(name):
            return path
    leave_out(f"needs {' or '.join(names)} (.ci/run installs it)")
    raise FileNotFoundError(names[0])


class Node:
    """Calls functions of the JavaScript modules of a folder in Node."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.command = folder, [program("node")]
        version = subprocess.run([*self.command, "--version"], capture_output=True, text=True, check=True).stdout
        if version.startswith(("v20.", "v21.")):  # relaxed SIMD is behind a flag there, and on its own from 22 on
            self.command.append("--experimental-wasm-relaxed-simd")

    def call(self, module: str, function: str, given: Any) -> Any:
        """What ``function(given)`` of a module gives, or resolves to."""
        code = f"""
            import {{ {function} as call }} from {json.dumps((self.folder / module).as_uri())};
            import {{ readFileSync }} from "node:fs";
            console.log(JSON.stringify(await call(JSON.parse(readFileSync(0, "utf8")))));
        """
        done = subprocess.run(
            [*self.command, "--input-type=module", "-e", code],
            input=json.dumps(given),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


class Page:
    """Calls functions of the JavaScript modules of a folder in a page. What the console says is in ``said``."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address, self.said = page, address, list[str]()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def call(self, module: str, function: str, given: Any) -> Any:
        return self.page.evaluate(
            "async ([module, name, given]) => (await import(module))[name](given)",
            [f"{self.address}/{module}", function, given],
        )


@contextmanager
def chromium(folder: Path, *arguments: str) -> Iterator[Page]:
    """An empty page, from a server of the files of a folder."""
    playwright = need("playwright.sync_api")
    path = program("chromium", "chromium-browser", "google-chrome")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
            page = Page(browser.new_page(), f"http://127.0.0.1:{server.server_port}")
            page.page.route(
                "**/empty.html", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
            )
            page.page.goto(f"{page.address}/empty.html")
            yield page
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
