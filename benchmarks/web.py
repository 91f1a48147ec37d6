"""Time exported models in headless Chromium, and onnxruntime-web beside them.

    pip install -e '.[link,bench]' playwright
    npm pack onnxruntime-web && tar xf onnxruntime-web-*.tgz
    python benchmarks/web.py --onnxruntime package/dist

Prints the microseconds of a call with relaxed SIMD, with SIMD128, and of onnxruntime-web on one thread, which takes h
and c along. All take turns in one page, and of many rounds the fastest one of each counts. amp_block is a call of 2048
samples.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numlstm
from numlstm.bench.engines.onnx_model import onnx_model
from numlstm.bench.grid import find
from numlstm.export import MODEL, export

NAMES = ("amp_step", "amp_block", "vad_step")
DIFFERENCE = 2.0**-20  # that results of the engines may have
RATE = 48000


class Isolated(SimpleHTTPRequestHandler):
    """Serves files with the headers by which a page gets a clock of five microseconds."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


def write(folder: Path, onnxruntime: Path | None) -> None:
    """The files of the page."""
    for name in NAMES:
        workload = find(name)
        lstm = numlstm.LSTM(workload.input_size, workload.hidden_size, seed=0).eval()
        export(lstm, folder, target="wasm32", echo=lambda line: None)
        (folder / MODEL).replace(folder / f"{name}.numlstm")
        (folder / f"{name}.onnx").write_bytes(onnx_model(workload, lstm.state_dict()))
    code = Path(__file__).with_suffix(".js").read_text()
    if onnxruntime is None:
        code = "const ort = { env: { wasm: {} } };\n" + "".join(
            line for line in code.splitlines(True) if not line.startswith("import * as ort")
        )
    else:
        shutil.copytree(onnxruntime, folder / "ort", ignore=shutil.ignore_patterns("*.map"))
    (folder / "web.js").write_text(code)
    (folder / "index.html").write_text("<!doctype html><link rel=icon href=data:,>")


def measured(folder: Path, browser: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the page gives for every workload."""
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Isolated, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = {}
    try:
        with sync_playwright() as started:
            opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            print(f"Chromium {opened.version}")
            page = opened.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            for name in NAMES:
                workload = find(name)
                sizes = {"input": workload.input_size, "hidden": workload.hidden_size}
                arguments = {"name": name, **sizes, "steps": workload.sequence_length, **given}
                call = "async (given) => (await import('/web.js')).measure(given)"
                found[name] = page.evaluate(call, arguments)
            opened.close()
    finally:
        server.shutdown()
    return found


def main() -> None:
    """Export, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxruntime", type=Path, help="the folder dist of onnxruntime-web")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--milliseconds", type=float, default=5, help="of each engine in a round")
    options = parser.parse_args()
    given = {
        "rounds": options.rounds,
        "milliseconds": options.milliseconds,
        "onnxruntime": options.onnxruntime is not None,
    }
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.onnxruntime)
        found = measured(Path(name), options.browser, given)
    theirs = f" {'ort-web':>9} {'ahead':>7}" if options.onnxruntime else ""
    print(f"{'µs a call':10} {'fused':>9} {'SIMD128':>9}{theirs}")
    for name, one in found.items():
        if one["worst"] > DIFFERENCE:
            raise SystemExit(f"{name}: results differ by {one['worst']}")
        least = {engine: min(times) for engine, times in one["times"].items()}
        line = f"{name:10} {least['fused']:9.2f} {least['plain']:9.2f}"
        if "onnxruntime" in least:
            line += f" {least['onnxruntime']:9.2f} {least['onnxruntime'] / least['fused']:7.2f}"
        if name == "amp_block":
            line += f"  {1e6 * find(name).sequence_length / RATE / least['fused']:.0f} x real time at 48 kHz"
        print(line)


if __name__ == "__main__":
    main()
