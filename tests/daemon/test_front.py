"""The front and the engine behind it: who does what, and how the command line is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tertulia_protocol.methods import METHODS
from tertuliad import options
from tertuliad.handlers import front, table
from tests.support.daemon_process import DaemonProcess, stdio_daemon, tcp_daemon
from tests.support.model_thread import ModelThread


def test_every_method_has_one_handler() -> None:
    assert front.HANDLERS.keys() | table.HANDLERS.keys() == METHODS.keys()
    assert not front.HANDLERS.keys() & table.HANDLERS.keys()
    assert all(callable(table.found(name)) for name in table.HANDLERS)


def test_the_front_needs_the_shapes_of_one_group() -> None:
    groups = {METHODS[name].group for name in front.HANDLERS}
    assert groups == {"runtime"}
    assert all(METHODS[name].group != "runtime" for name in table.HANDLERS)


def test_what_was_left_waiting_runs_though_no_client_comes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ModelThread() as model:
        env = {"COPILOT_PROVIDER_BASE_URL": model.base_url, "COPILOT_MODEL": "fake"}
        with stdio_daemon(home, env=env) as daemon:
            session = daemon.wire.create()
            for prompt in ("[[fake-hang]]", "[[say:one]]"):
                daemon.wire.call("session.send", sessionId=session, prompt=prompt)
            model.until_active(1)
            daemon.kill()
        with tcp_daemon(home, env=env):
            model.until(lambda: len(model.chats) == 2)


@pytest.mark.parametrize("greets", [True, False])
def test_a_daemon_that_was_asked_for_nothing_ends_cleanly(tmp_path: Path, greets: bool) -> None:
    with tcp_daemon(tmp_path / "home") as daemon:
        if greets:
            daemon.connect("a-token")
        assert daemon.terminate() == 0
        assert daemon.stderr == ""


def test_a_configuration_that_is_not_there_is_told_before_the_handshake(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path / "home", "--stdio", "--config", "nowhere.toml") as daemon:
        assert daemon.wait() == 1
        assert "nowhere.toml" in daemon.stderr
        assert "Traceback" not in daemon.stderr


# The command line, read in two ways


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--stdio",
        "--headless --no-auto-update --log-level all --stdio --auth-token-env NAME",
        "--port=0 --host=0.0.0.0 --allow-anonymous --session-idle-timeout 30 --server",
        "--socket /run/x --home . --config c.toml --max-body 4096 --parent-pid 7",
        "--turn-retries 0 --turn-timeout 1.5 --turn-idle-timeout 2 --drain-grace 0",
        "--port 1 --port 2 --home=",
    ],
)
def test_what_is_spelt_out_is_read_as_argparse_reads_it(words: str) -> None:
    argv = words.split()
    assert options._spelt_out(argv) == vars(options._parser().parse_args(argv))


@pytest.mark.parametrize(
    "words",
    ["--help", "-h", "--version", "--std", "--stdio=1", "--port", "--port -1", "--port x", "stdio"],
)
def test_what_a_person_has_to_be_told_is_left_to_argparse(words: str) -> None:
    assert options._spelt_out(words.split()) is None
    with pytest.raises(SystemExit):
        options._parser().parse_args(words.split())
