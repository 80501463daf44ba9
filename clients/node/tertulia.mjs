// A thin client of tertuliad without dependencies. A Client is one connection; a session lives in
// the daemon and outlives it. When the connection ends, whatever waits is rejected: nothing hangs.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { EventEmitter, on, once } from "node:events";
import { open } from "node:fs/promises";
import net from "node:net";
import { basename, dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const GRACE_MS = 5000; // before each next step of a spawned daemon's end
const failing = (what) => (cause) => { throw new Error(`${what} (${cause.code})`, { cause }); };
const within = (wait, ms) => Promise.race([wait.then(() => 1), delay(ms, 0, { ref: false })]);

async function tell(events, sessionId, messageId, onDelta) {
  let turn;
  for await (const [id, { type, data }] of events) if (id === sessionId) {
    if (type === "user.message") turn = data.messageId;
    if (type === "assistant.message_delta" && turn === messageId) onDelta(data.deltaContent);
  }
}

/** An error answer of the daemon: `code`, `message`, and `data.kind` for programs. */
export class RpcError extends Error {
  constructor({ message, ...more }) { super(message); Object.assign(this, more); }
}

/** Emits "event" (sessionId, event), "lifecycle" (notice) and "close" (reason). */
export class Client extends EventEmitter {
  #write; #child; #exited; #reason; #chunks = []; #missing = 0; #nextId = 1; #waiting = new Map();

  constructor(read, write, child) {
    super().setMaxListeners(0);
    [this.#write, this.#child, this.#exited] = [write, child, child && once(child, "exit")];
    read.on("data", (chunk) => { try { this.#receive(chunk); } catch (e) { this.#lose(e); } });
    read.on("close", () => this.#lose(new Error("The daemon closed the connection.")));
    for (const end of [read, write]) end.on("error", () => {}); // "close" follows, and tells
  }

  /** A daemon of its own on pipes; it ends with this client, or with this process. */
  static async spawn({ command, home, args = [], env } = {}) {
    const options = [...args, "--stdio", ...(home ? ["--home", home] : [])];
    const program = command ?? process.env.TERTULIAD ?? "tertuliad";
    const [stdio, whole] = [["pipe", "pipe", "inherit"], { ...process.env, ...env }];
    const child = spawn(program, options, { stdio, env: whole, detached: true });
    const remedy = "put tertuliad on the PATH, or name it in TERTULIAD";
    await once(child, "spawn").catch(failing(`${program} cannot be run: ${remedy}`));
    return new Client(child.stdout, child.stdin, child).#greet();
  }

  /** A daemon that runs: "unix:/path", "host:port" or "tcp://host:port". */
  static async connect(address, token = process.env.TERTULIA_TOKEN) {
    const [, path, host, port] = /^(?:unix:(.+)|(?:tcp:\/\/)?(.*):(\d+))$/.exec(address) ?? [];
    if (!path && !port) throw new Error(`${address} is no address: unix:/path or host:port`);
    const none = failing(`No daemon at ${address}: run tertulia serve`);
    const deep = process.platform === "linux" && Buffer.byteLength(path ?? "") > 107; // unix(7)
    const folder = deep && await open(dirname(path)).catch(none); // through it the path is short
    const near = folder ? `/proc/self/fd/${folder.fd}/${basename(path)}` : path;
    const socket = net.connect(path ? { path: near } : { host, port, noDelay: true });
    await once(socket, "connect").catch(none).finally(() => folder && folder.close());
    return new Client(socket, socket).#greet(token);
  }

  /** The result of any method of the protocol; rejects with an RpcError where it is refused. */
  request(method, params = {}) {
    return new Promise((resolve, reject) => {
      if (this.#reason) return reject(this.#reason);
      this.#waiting.set(this.#nextId, { resolve, reject });
      this.#send({ id: this.#nextId++, method, params });
    });
  }

  /** Creates a session; its id. `config` has the members of session.create. */
  async createSession(config) {
    const given = { sessionId: randomUUID(), streaming: true, ...config };
    return (await this.request("session.create", given)).sessionId;
  }

  /** Hands over a message; its id. The turn's events follow. */
  async send(sessionId, prompt, more) {
    return (await this.request("session.send", { sessionId, prompt, ...more })).messageId;
  }

  /** The answer's text; `onDelta` gets its pieces. Rejects where there will be none. */
  async sendAndWait(sessionId, prompt, { onDelta, ...more } = {}) {
    const given = { ...more, idempotencyKey: more.idempotencyKey ?? randomUUID() }; // sent twice
    const events = onDelta && on(this, "event"); // first, so that none is missed
    try {
      const told = events && tell(events, sessionId, await this.send(sessionId, prompt, given), onDelta);
      const ended = this.request("session.sendAndWait", { sessionId, prompt, ...given });
      const [{ response, aborted }] = await Promise.all([ended.finally(() => events?.return()), told]);
      if (aborted) throw new Error("The turn was aborted.");
      return response?.data.content ?? "";
    } catch (error) { throw Object.assign(error, { errorType: error.data?.errorType }); }
    finally { events?.return(); }
  }

  async list() { return (await this.request("session.list")).sessions; }
  async delete(sessionId) {
    const { success, error } = await this.request("session.delete", { sessionId });
    if (!success) throw new Error(error);
  }

  /** Ends the connection, and a daemon that was spawned: asked, then SIGTERM, then SIGKILL. */
  async close() {
    const [child, gone] = [this.#child, this.#exited ?? Promise.resolve()];
    if (child) await within(this.request("runtime.shutdown").catch(() => {}), GRACE_MS);
    this.#lose(new Error("The client was closed."));
    for (const signal of ["SIGTERM", "SIGKILL"])
      if (!(await within(gone, GRACE_MS))) child.kill(signal);
    await within(gone, GRACE_MS);
  }

  async #greet(token) {
    return this.request("connect", token ? { token } : {}).then(
      () => this, async (error) => { await this.close(); throw error; });
  }

  #send(message) {
    const body = Buffer.from(JSON.stringify({ jsonrpc: "2.0", ...message }));
    this.#write.write(Buffer.concat([Buffer.from(`Content-Length: ${body.length}\r\n\r\n`), body]));
  }
  #tell(...what) { try { this.emit(...what); } catch (e) { queueMicrotask(() => { throw e; }); } }

  #receive(chunk) {
    if ((this.#missing -= chunk.length) > 0) return void this.#chunks.push(chunk); // joined once
    let [buffer] = this.#chunks = [Buffer.concat([...this.#chunks, chunk])];
    for (let end; (end = buffer.indexOf("\r\n\r\n")) >= 0;) {
      const to = end + 4 + Number(/length: *(\d+)/i.exec(buffer.toString("latin1", 0, end))[1]);
      if ((this.#missing = to - buffer.length) > 0) return;
      const { id, method, params, result, error } = JSON.parse(buffer.subarray(end + 4, to));
      [buffer] = this.#chunks = [buffer.subarray(to)];
      if (method === "session.event") this.#tell("event", params.sessionId, params.event);
      else if (method === "session.lifecycle") this.#tell("lifecycle", params);
      else if (method && id !== undefined)
        this.#send({ id, error: { code: -32601, message: `This client has no ${method}.` } });
      else if (error) this.#waiting.get(id)?.reject(new RpcError(error));
      else this.#waiting.get(id)?.resolve(result);
      if (!method) this.#waiting.delete(id);
    }
  }

  #lose(reason) {
    if (this.#reason) return; else this.#reason = reason;
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
    this.#write[this.#child ? "end" : "destroy"]();
    this.#tell("close", reason);
  }
}
