// Scenes for the official TypeScript SDK, unmodified, against the real daemon.
//
// `node scenes.mjs SCENE JSON` plays one and prints one line of JSON: {"ok": <what the scene saw>,
// "errors": <of the client's stop>, "lives": <whether the daemon that the SDK started outlives it>} or
// {"error": <why it broke off>}. The tests beside this file say what has to be in it.
// JSON: {connection: "stdio" | "tcp" | "uri", path, uri, token, home, model}; `model` is the base URL
// of a scripted model, and what it does is written in a model's name or in [[...]] in the prompt.

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

const [scene, json] = process.argv.slice(2);
const given = JSON.parse(json);

const environment = { PATH: process.env.PATH, HOME: given.home, NO_PROXY: "*" };
const provider = { type: "openai", baseUrl: given.model, apiKey: "key-of-a-test" };

function connection() {
  const { path, uri, token: connectionToken } = given;
  if (given.connection === "uri") return RuntimeConnection.forUri(uri, { connectionToken });
  if (given.connection === "tcp") return RuntimeConnection.forTcp({ path, args: given.args });
  return RuntimeConnection.forStdio({ path, args: given.args });
}

const newClient = (options = {}) =>
  new CopilotClient({
    connection: connection(),
    env: environment,
    baseDirectory: given.home,
    ...(given.connection === "uri" ? {} : { useLoggedInUser: false }),
    ...options,
  });

const config = (more = {}) => ({
  model: "fake-history",
  provider,
  onPermissionRequest: approveAll,
  ...more,
});

const text = async (session, prompt) => (await session.sendAndWait({ prompt }))?.data.content;

const refusal = async (promise) => {
  try {
    await promise;
    return null;
  } catch (error) {
    return error.message;
  }
};

/** The session's next event of `type`. */
const next = (session, type) =>
  new Promise((resolve) => {
    const stop = session.on((event) => {
      if (event.type !== type) return;
      stop();
      resolve(event);
    });
  });

const scenes = {
  async gathering(client) {
    const models = ["fake-history-n1", "fake-history-n1", "fake-history-n4"];
    const contexts = ["a Python project", "a TypeScript project", "a Go project"];
    const questions = [
      "How do I create a virtual environment?",
      "How do I set up tsconfig?",
      "How do I initialize a module?",
    ];
    const sessions = await Promise.all(
      models.map((model) => client.createSession(config({ model }))),
    );
    await Promise.all(
      sessions.map((s, i) => s.sendAndWait({ prompt: `We are working on ${contexts[i]}.` })),
    );
    const answers = await Promise.all(sessions.map((s, i) => text(s, questions[i])));
    const chat = await client.createSession(config({ sessionId: "user-123-chat" }));
    const listed = (await client.listSessions()).map((s) => s.sessionId);
    await client.deleteSession(sessions[0].sessionId);
    const left = (await client.listSessions()).map((s) => s.sessionId);
    for (const session of [...sessions.slice(1), chat]) await session.disconnect();
    const afterwards = await refusal(sessions[1].getEvents());
    return {
      ids: sessions.map((s) => s.sessionId),
      chat: chat.sessionId,
      answers,
      listed,
      left,
      afterwards,
    };
  },

  async users(client) {
    const count = given.count;
    const sessions = await Promise.all(
      Array.from({ length: count }, (_, i) =>
        client.createSession(
          config({ sessionId: `user-${i}-chat`, model: `fake-history-crowd${count}` }),
        ),
      ),
    );
    const answers = await Promise.all(sessions.map((s, i) => text(s, `I am user ${i}`)));
    return { answers };
  },

  async compare(client) {
    const models = ["fake-say", "fake-history"];
    const sessions = await Promise.all(
      models.map((model) => client.createSession(config({ model }))),
    );
    const question = "[[say:forty-two]] What is the answer?";
    return { answers: await Promise.all(sessions.map((s) => text(s, question))) };
  },

  async streaming(client) {
    const session = await client.createSession(config({ model: "fake-n4-d100", streaming: true }));
    const deltas = [];
    const order = [];
    session.on((event) => {
      order.push(event.type);
      if (event.type === "assistant.message_delta") deltas.push(event.data.deltaContent);
    });
    const final = await text(session, "stream, please");
    return { deltas, final, order };
  },

  async abort(client) {
    const session = await client.createSession(config({ streaming: true }));
    const flowing = next(session, "assistant.message_delta");
    const idle = next(session, "session.idle");
    await session.send({ prompt: "[[fake-n9-stall2]]" });
    await flowing;
    await session.abort();
    const aborted = (await idle).data.aborted;
    const events = (await session.getEvents()).map((e) => e.type);
    await session.abort();
    const answers = [await text(session, "[[say:back again]]")];
    for (let n = 0; n < 5; n++) {
      await session.send({ prompt: "[[fake-hang]]" });
      await session.abort();
      answers.push((await text(session, "[[say:back again]]")) ?? null);
    }
    return { aborted, events, answers };
  },

  async models(client) {
    const session = await client.createSession(config({ model: "fake-history-n1" }));
    await text(session, "one");
    await session.setModel("fake-history-n2");
    const answer = await text(session, "two");
    const changes = (await session.getEvents())
      .filter((e) => e.type === "session.model_change")
      .map((e) => [e.data.previousModel, e.data.newModel]);
    return { answer, changes };
  },

  async resume(client) {
    const first = await client.createSession(config({ sessionId: "kept" }));
    await text(first, "one");
    const before = await first.getEvents();
    await client.stop();
    const another = newClient();
    try {
      await another.start();
      const last = await another.getLastSessionId();
      const metadata = await another.getSessionMetadata("kept");
      const again = await another.resumeSession("kept", config());
      const answer = await text(again, "two");
      const after = await again.getEvents();
      return { before, after, last, cwd: metadata?.context?.workingDirectory, answer };
    } finally {
      await another.stop();
    }
  },

  async failures(client) {
    const session = await client.createSession(config({ model: "fake-say" }));
    const said = {};
    for (const script of given.scripts) {
      const idle = next(session, "session.idle");
      said[script] = await refusal(session.sendAndWait({ prompt: `[[${script}]]` }));
      await idle;
      said[`after ${script}`] = await text(session, "[[say:all is well]]");
    }
    return said;
  },

  /** The answers of those who try again as soon as a rejection says that the turn has failed: it does
   *  not wait for the idle event, which the next `sendAndWait` would take for its own. */
  async retries(client) {
    const answers = [];
    for (let n = 0; n < 5; n++) {
      const session = await client.createSession(config({ model: "fake-say" }));
      await refusal(session.sendAndWait({ prompt: "[[fake-e401]]" }));
      answers.push((await text(session, "[[say:all is well]]")) ?? null);
    }
    return answers;
  },

  async tools(client) {
    const tool = (name) => ({
      name,
      description: `looks up ${name}`,
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      handler: async () => "sunny",
    });
    const session = await client.createSession(
      config({
        tools: [tool("weather"), tool("secret_weather")],
        excludedTools: ["secret_weather"],
      }),
    );
    return { answer: await text(session, "no need to look it up") };
  },

  async empty(client) {
    await client.stop();
    const bare = newClient({ mode: "empty" });
    try {
      const session = await bare.createSession(config({ availableTools: [] }));
      return { answer: await text(session, "bare") };
    } finally {
      await bare.stop();
    }
  },

  async refusals(client) {
    const session = await client.createSession(config());
    await client.createSession(config({ sessionId: "taken" }));
    return {
      slash: await refusal(client.createSession(config({ sessionId: "a/b" }))),
      dots: await refusal(client.createSession(config({ sessionId: "../evil" }))),
      long: await refusal(client.createSession(config({ sessionId: "x".repeat(300) }))),
      taken: await refusal(client.createSession(config({ sessionId: "taken" }))),
      resume: await refusal(client.resumeSession("nobody", config())),
      remove: await refusal(client.deleteSession("nobody")),
      metadata: (await client.getSessionMetadata("nobody")) ?? null,
      answer: await text(session, "still here"),
    };
  },

  // The SDK's generated objects: what its own clients do not call.
  async generated(client) {
    const session = await client.createSession(config({ sessionId: "spoken-in" }));
    const answer = await text(session, "one");
    const { sessions } = client.rpc;
    const { sessions: internal } = client.internalRpc;
    const options = { sessionId: "opened-1", name: "Opened", provider, workingDirectory: "/work" };
    const opened = {
      created: await sessions.open({ kind: "create", options }),
      resumed: await sessions.open({ kind: "resume", sessionId: "spoken", resume: false }),
      last: await sessions.open({ kind: "resumeLast", context: { cwd: "/work" } }),
      attached: await sessions.open({ kind: "attach", sessionId: "opened-1" }),
      missing: await sessions.open({ kind: "attach", sessionId: "nobody" }),
      cloud: await refusal(sessions.open({ kind: "cloud" })),
    };
    const folder = "/";
    const moved = await session.rpc.metadata.setWorkingDirectory({ workingDirectory: folder });
    const context = { cwd: folder, branch: "main" };
    await session.rpc.metadata.recordContextChange({ context });
    const changes = (await session.getEvents())
      .filter((e) => e.type === "session.context_changed")
      .map((e) => e.data);
    const { metadata } = session.rpc;
    const patched = await metadata.updateClientMetadata({ set: { "my/team": "a", other: "b" } });
    const ours = { sessionIds: ["spoken-in", "nobody"], keys: ["my/team"] };
    const points = (await session.rpc.history.listRewindPoints()).points;
    const preview = await session.rpc.history.previewRewind({ eventId: points[0].eventId });
    const listed = (await sessions.list({ source: "local", filter: { cwd: folder } })).sessions;
    const spokenIn = (await internal.listNonEmptySessionIds({ limit: 5 })).sessionIds;
    const row = (await internal.getMetadata({ sessionId: "opened-1" })).session;
    await internal.delete({ sessionId: "opened-1" });
    return {
      answer,
      opened,
      moved,
      folder,
      changes,
      preview,
      listed: listed.map((s) => [s.sessionId, s.isRemote, s.context.cwd]),
      spokenIn,
      row: [row.name, row.context.cwd],
      left: (await sessions.list({})).sessions.map((s) => s.sessionId),
      metadata: [patched, await metadata.getClientMetadata()],
      ofMany: await sessions.getClientMetadata(ours),
      task: await sessions.findByTaskId({ taskId: "t" }),
    };
  },

  async house(client) {
    const told = [];
    client.onLifecycle((event) => told.push(event.type));
    const session = await client.createSession(config({ sessionId: "of-the-house" }));
    await session.log("a line of my own");
    await client.deleteSession("of-the-house");
    return {
      pong: (await client.ping("hello")).message,
      status: await client.getStatus(),
      auth: (await client.getAuthStatus()).isAuthenticated,
      models: (await client.listModels()).length,
      last: (await client.getLastSessionId()) ?? null,
      foreground: (await client.getForegroundSessionId()) ?? null,
      told,
    };
  },
};

/** Whether a process is there: false once it has ended and its parent has noticed. */
function lives(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function play() {
  const client = newClient();
  try {
    await client.start();
    const pid = client.cliProcess?.pid;
    const ok = await scenes[scene](client);
    const errors = (await client.stop()).map((error) => error.message);
    return { ok, errors, lives: pid !== undefined && lives(pid) };
  } catch (error) {
    await client.forceStop();
    return { error: `${error.message}\n${error.stack ?? ""}` };
  }
}

const result = await play();
process.stdout.write(JSON.stringify(result) + "\n", () => process.exit(0));
