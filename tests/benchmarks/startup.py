"""How soon the page is there: `python -m tests.benchmarks.startup [--quick]`.

Starts the studio as a user does, in a fresh workspace, and waits for its page. The last line is one JSON object:
`page_s`, the median seconds from the command to the page, and `torch_imported`, whether torch was loaded by then.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torch_loaded(process_id: int) -> bool:
    """Whether torch's library is mapped into the process."""
    return "libtorch" in Path(f"/proc/{process_id}/maps").read_text()


def start_once() -> tuple[float, bool]:
    """Seconds from the command to a page that answers, and whether torch was loaded when it did."""
    port = free_port()
    with tempfile.TemporaryDirectory() as workspace:
        began_s = time.monotonic()
        command = [sys.executable, "app.py", "--port", str(port), "--workspace", workspace]
        environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                try:
                    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                except OSError:
                    if process.poll() is not None or time.monotonic() - began_s > 120:
                        raise
                    time.sleep(0.02)
                    continue
                assert b"Tripod" in page
                return time.monotonic() - began_s, torch_loaded(process.pid)
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one start only")
    runs = [start_once() for _ in range(1 if parser.parse_args().quick else 5)]
    page_s = statistics.median(seconds for seconds, _ in runs)
    print(json.dumps({"page_s": round(page_s, 2), "torch_imported": any(loaded for _, loaded in runs)}))


if __name__ == "__main__":
    main()
