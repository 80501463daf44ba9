"""The thin client for Node, driven by small scripts against the real daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import BOUND_S, REPO, Counted, Served, wait_until_gone

CLIENT = REPO / "clients" / "node" / "tertulia.mjs"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def play(script: str, *arguments: str) -> Any:
    """Run a script in which `Client` is imported and `out(value)` gives the result."""
    program = f"""
import {{ readFileSync }} from "node:fs";
import {{ Client }} from {json.dumps(CLIENT.as_uri())};
const out = (value) => process.stdout.write(JSON.stringify(value));
const [first, ...rest] = process.argv.slice(1);
{script}
"""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "--eval", program, "--", *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_stays_small() -> None:
    lines = CLIENT.read_text().splitlines()
    assert len(lines) <= 150
    imports = [line for line in lines if line.startswith("import ")]
    assert all('"node:' in line for line in imports)


def test_it_spawns_converses_lists_and_deletes(home: Path, counted: Counted) -> None:
    result = play(
        """
        const client = await Client.spawn({ command: first, args: rest });
        const config = { sessionId: "user-123-chat", model: "fake-history" };
        const mine = await client.createSession(config);
        const other = await client.createSession();
        let deltas = "";
        const both = await Promise.all([
          client.sendAndWait(mine, "one", { onDelta: (text) => { deltas += text; } }),
          client.sendAndWait(other, "[[say:two]]"),
        ]);
        const again = await client.sendAndWait(mine, "three");
        const before = (await client.list()).map((row) => row.sessionId);
        await client.delete(other);
        const after = (await client.list()).map((row) => row.sessionId);
        await client.close();
        out({ both, again, deltas, before, after, other });
        """,
        *counted.command,
    )
    assert result["both"] == [result["deltas"], "two"]
    assert "one" in result["again"]
    assert set(result["before"]) == {"user-123-chat", result["other"]}
    assert result["after"] == ["user-123-chat"]
    wait_until_gone(counted.pids[0])


def test_failures_reject_with_what_happened(home: Path, counted: Counted) -> None:
    result = play(
        """
        const client = await Client.spawn({ command: first, args: rest });
        const told = (promise) => promise.catch((e) => ({ ...e, message: e.message }));
        const session = await client.createSession();
        const failed = await told(client.sendAndWait(session, "[[fake-e401]]"));
        const nobody = { sessionId: "nobody", prompt: "x" };
        const unknown = await told(client.request("session.send", nobody));
        const missing = await told(client.delete("nobody"));
        const long = client.sendAndWait(session, "[[fake-n100000-d20]]", {
          onDelta: () => client.request("session.abort", { sessionId: session }),
        });
        const aborted = await told(long);
        const next = await client.sendAndWait(session, "[[say:fine]]");
        const waiting = told(client.sendAndWait(session, "[[fake-hang]]"));
        await client.request("ping");
        process.kill(Number(readFileSync(rest.at(-1), "utf8")), "SIGKILL");
        out({ failed, unknown, missing, aborted, next, lost: await waiting });
        await client.close();
        """,
        *counted.command,
    )
    assert "401" in result["failed"]["message"]
    assert result["failed"]["errorType"]
    assert result["unknown"]["data"]["kind"] == "session_not_found"
    assert "not found" in result["missing"]["message"].lower()
    assert "aborted" in result["aborted"]["message"]
    assert result["next"] == "fine"
    assert "closed" in result["lost"]["message"]


def test_a_message_without_a_turn_is_not_waited_for(home: Path, counted: Counted) -> None:
    result = play(
        """
        const client = await Client.spawn({ command: first, args: rest });
        const told = (promise) => promise.catch((e) => e.data?.kind ?? e.message);
        const session = await client.createSession({ model: "fake-history" });
        let pieces = "";
        const key = { idempotencyKey: "k", onDelta: (piece) => { pieces += piece; } };
        const answers = [];
        for (let n = 0; n < 2; n++) answers.push(await client.sendAndWait(session, "one", key));
        const runs = told(client.sendAndWait(session, "[[fake-hang]]"));
        const waits = told(client.sendAndWait(session, "two", { onDelta: () => {} }));
        await client.request("session.queue.clear", { sessionId: session });
        const cleared = await waits;
        await client.delete(session);
        out({ answers, pieces, cleared, deleted: await runs });
        await client.close();
        """,
        *counted.command,
    )
    assert result["answers"] == [result["pieces"]] * 2
    assert "one" in result["pieces"]
    assert "aborted" in result["cleared"]
    assert result["deleted"] == "session_not_found"


def test_the_pieces_of_a_message_come_whatever_it_was_sent_with(
    home: Path, counted: Counted
) -> None:
    result = play(
        """
        const client = await Client.spawn({ command: first, args: rest });
        const session = await client.createSession();
        const runs = client.sendAndWait(session, "[[fake-n20-d30]]");
        await client.request("ping");
        let pieces = "";
        const more = { idempotencyKey: undefined, onDelta: (piece) => { pieces += piece; } };
        const options = { ...more, mode: "immediate" };
        const answer = await client.sendAndWait(session, "[[say:urgent]]", options);
        await runs;
        const log = await client.request("session.getMessages", { sessionId: session });
        out({ answer, pieces, types: log.events.map((event) => event.type) });
        await client.close();
        """,
        *counted.command,
    )
    assert result["answer"] == result["pieces"] == "urgent"
    assert result["types"].count("user.message") == 2


def test_what_hears_the_pieces_may_fail(home: Path, counted: Counted) -> None:
    result = play(
        """
        const client = await Client.spawn({ command: first, args: rest });
        const session = await client.createSession();
        const onDelta = () => { throw new Error("full"); };
        const failed = await client.sendAndWait(session, "x", { onDelta }).catch((e) => e.message);
        const next = await client.sendAndWait(session, "[[say:fine]]");
        out({ failed, next });
        await client.close();
        """,
        *counted.command,
    )
    assert result == {"failed": "full", "next": "fine"}


def test_what_a_listener_throws_is_the_processes_and_ends_no_connection(
    home: Path, counted: Counted
) -> None:
    result = play(
        """
        const thrown = [];
        process.on("uncaughtException", (error) => thrown.push(error.message));
        const client = await Client.spawn({ command: first, args: rest });
        for (const name of ["event", "lifecycle", "close"])
          client.once(name, () => { throw new Error(name); });
        const session = await client.createSession();
        const text = await client.sendAndWait(session, "[[say:fine]]");
        await client.close();
        await new Promise(setImmediate);
        out({ text, thrown: thrown.sort() });
        """,
        *counted.command,
    )
    assert result == {"text": "fine", "thrown": ["close", "event", "lifecycle"]}
    wait_until_gone(counted.pids[0])


def test_where_no_daemon_is_it_says_what_to_do() -> None:
    result = play(
        """
        const told = (promise) => promise.catch((e) => e.message);
        const spawned = await told(Client.spawn({ command: "/nowhere/tertuliad" }));
        out({ spawned, connected: await told(Client.connect("unix:/nowhere/x.sock")) });
        """
    )
    assert "/nowhere/tertuliad cannot be run" in result["spawned"]
    assert "TERTULIAD" in result["spawned"]
    assert "No daemon at unix:/nowhere/x.sock: run tertulia serve" in result["connected"]


def test_a_large_answer_is_joined_a_few_times_and_not_with_each_chunk(served: Served) -> None:
    result = play(
        """
        const [concat, size] = [Buffer.concat, 8_000_000];
        let joined = 0;
        Buffer.concat = (list) => {
          joined += list.reduce((sum, each) => sum + each.length, 0);
          return concat(list);
        };
        const client = await Client.connect(first);
        const { message } = await client.request("ping", { message: "x".repeat(size) });
        out({ whole: message.length > size, times: joined / size });
        await client.close();
        """,
        served.address,
    )
    assert result["whole"]
    assert result["times"] < 5


def test_what_comes_may_be_cut_anywhere() -> None:
    result = play(
        """
        const { PassThrough } = await import("node:stream");
        const answers = [];
        for (const step of [1, 2, 3, 7, 50, 1000]) {
          const [read, write] = [new PassThrough(), new PassThrough()];
          const client = new Client(read, write.resume());
          const asked = Promise.all(["a", "b", "c"].map((method) => client.request(method)));
          const bytes = Buffer.concat([1, 2, 3].map((id) => {
            const body = JSON.stringify({ jsonrpc: "2.0", id, result: "x".repeat(40 * (id - 1)) });
            return Buffer.from(`Content-Length: ${body.length}\\r\\n\\r\\n${body}`);
          }));
          for (let at = 0; at < bytes.length; at += step) read.write(bytes.subarray(at, at + step));
          answers.push((await asked).map((each) => each.length));
        }
        out(answers);
        """
    )
    assert result == [[0, 40, 80]] * 6


def test_it_connects_and_sees_what_others_do(served: Served) -> None:
    result = play(
        """
        const [one, two] = await Promise.all([Client.connect(first), Client.connect(first)]);
        const session = await one.createSession({ sessionId: "shared" });
        await two.request("session.resume", { sessionId: session });
        const seen = new Promise((resolve) => two.on("event", (id, event) => {
          if (event.type === "assistant.message") resolve([id, event.data.content]);
        }));
        await one.sendAndWait(session, "[[say:seen]]");
        out(await seen);
        await Promise.all([one.close(), two.close()]);
        """,
        served.address,
    )
    assert result == ["shared", "seen"]
    assert served.process.poll() is None
