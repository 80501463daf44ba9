"""The process that runs the embedded model's engine: `python -m tertuliad.embedded_child`.

It serves llama.cpp's OpenAI-compatible HTTP API on a free port of 127.0.0.1. Rules of this file:

- The first line of stdin is the API key: it never stands in an argument or in the environment.
- Stdout carries one JSON line, `{"port": 40123}` or `{"error": "why not"}`. Whatever else is
  printed, by Python or by the engine's C++, goes to stderr.
- The end of stdin ends the process at once, whatever the engine is doing.
- Nothing of the daemon is imported here; the engine's attribute names are those of the version
  that the extra `local` pins.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any, BinaryIO
from urllib.parse import urlsplit

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
# So small a model rambles and repeats itself at the engine's own values (0.8 and 1.0).
_TEMPERATURE = 0.2
_REPEAT_PENALTY = 1.1
_PROMPT_CACHE_MIB = 64  # prompts of sessions that lost their slot; the engine's default is 8 GiB


def main() -> None:
    options = _options()
    announcements = _claim_stdout()
    _die_with_parent()
    api_key = sys.stdin.buffer.readline().decode().strip()
    threading.Thread(target=_exit_at_end_of, args=(sys.stdin.buffer,), daemon=True).start()
    if not api_key:
        _announce(announcements, {"error": "no API key came on the first line of stdin"})
        os._exit(2)
    try:
        server = _serve(options, api_key)
    except Exception as error:  # noqa: BLE001 - the engine raises its own types, the parent reports
        _announce(announcements, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _announce(announcements, {"port": urlsplit(server.listening_address).port})
    threading.Event().wait()  # the watcher of stdin ends the process


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tertuliad.embedded_child", description=__doc__)
    parser.add_argument("--model", required=True, help="path of the GGUF file")
    parser.add_argument("--alias", required=True, help="the model's name on the wire")
    parser.add_argument("--context", type=int, required=True, help="tokens, shared by all slots")
    parser.add_argument("--slots", type=int, required=True, help="answers at the same time")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores but one")
    return parser.parse_args()


def _claim_stdout() -> int:
    """Keep stdout for the announcement; file descriptor 1 becomes stderr for everybody else."""
    announcements = os.dup(1)
    os.dup2(2, 1)
    return announcements


def _announce(announcements: int, message: dict[str, Any]) -> None:
    os.write(announcements, json.dumps(message).encode() + b"\n")
    os.close(announcements)


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL at the parent's death.

    While the engine loads a model it holds the interpreter lock, so that the thread which watches
    stdin cannot act; with a large file that lasts for many seconds.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _exit_at_end_of(stdin: BinaryIO) -> None:
    try:
        while stdin.read(1):
            pass
    finally:
        os._exit(0)


def _serve(options: argparse.Namespace, api_key: str) -> Any:
    """Load the model and serve it; the engine has its own threads and returns when it listens."""
    import xllamacpp  # here, so that a missing library is announced as an error

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [api_key]
    params.n_ctx = options.context
    params.n_parallel = options.slots
    params.kv_unified = True  # one answer may use the whole context while the other slots are idle
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads(options.threads)
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.sampling.temp = _TEMPERATURE
    params.sampling.penalty_repeat = _REPEAT_PENALTY
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.verbosity = 1  # errors only; prompts are not written anywhere
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.cors_origins = ""
    return xllamacpp.Server(params)


def _threads(wanted: int) -> int:
    """All usable cores but one, which stays with the daemon."""
    if wanted > 0:
        return wanted
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)
    return max(1, cores - 1)


if __name__ == "__main__":
    main()
