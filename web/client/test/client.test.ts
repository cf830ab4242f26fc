import { afterEach, beforeEach, describe, expect, expectTypeOf, test, vi } from "vitest";
import {
  type Delivery,
  type Gap,
  Headwater,
  type Options,
  type PostEvent,
  RequestError,
  type Ticker,
} from "../src/index.js";
import { FakeServer } from "./server.js";

const TOPIC = "coinbase/ticker/BTC-USD";
const OTHER = "mastodon/public";

let server: FakeServer;
let clients: Headwater[];

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  clients = [];
});

afterEach(() => {
  for (const client of clients) client.close();
  expect(vi.getTimerCount(), "a closed client has no timers").toBe(0);
  vi.useRealTimers();
});

function client(options: Options = {}): Headwater {
  const created = new Headwater("ws://test/live", { WebSocket: server.WebSocket, random: () => 0.5, ...options });
  clients.push(created);
  return created;
}

/** Runs pending microtasks and the timers of the next `ms` milliseconds. */
const settle = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

/** Subscribes to a topic and returns the list of the numbers that arrive. */
function numbers(client: Headwater, topic: string = TOPIC, options = {}): number[] {
  const seqs: number[] = [];
  client.subscribe(topic, options, ({ seq }) => seqs.push(seq));
  return seqs;
}

describe("a client", () => {
  test("sends one request for simultaneous subscriptions, and delivers the events", async () => {
    const subject = client();
    const [first, second, other] = [numbers(subject), numbers(subject), numbers(subject, OTHER)];
    await settle();
    expect(server.socket.protocols).toEqual(["headwater.v1"]);
    expect(server.socket.requests("subscribe").map((it) => it["topics"])).toEqual([[TOPIC, OTHER]]);
    server.socket.push(TOPIC, 1, 2);
    server.socket.push(OTHER, 1);
    expect([first, second, other]).toEqual([[1, 2], [1, 2], [1]]);
  });

  test("delivers events of the type of the topic", () => {
    const subject = client();
    const ticks = subject.subscribe(TOPIC);
    expectTypeOf(ticks).toExtend<AsyncIterable<Delivery<Ticker>>>();
    subject.subscribe(OTHER, {}, ({ event }) => expectTypeOf(event).toEqualTypeOf<PostEvent>());
  });

  test("unsubscribes when the loop of an iteration ends", async () => {
    const subject = client();
    const seqs: number[] = [];
    const reading = (async () => {
      for await (const { seq } of subject.subscribe(TOPIC)) {
        seqs.push(seq);
        if (seq === 3) break;
      }
    })();
    await settle();
    server.socket.push(TOPIC, 1, 5);
    await reading;
    await settle();
    expect(seqs).toEqual([1, 2, 3]);
    expect(server.socket.requests("unsubscribe").map((it) => it["topics"])).toEqual([[TOPIC]]);
  });

  test("an iterator that is not read drops the oldest events and reports a gap", async () => {
    const subject = client();
    const gaps: Gap[] = [];
    const subscription = subject.subscribe(TOPIC, { buffer: 2, onGap: (gap) => gaps.push(gap) });
    await settle();
    server.socket.push(TOPIC, 1, 4);
    subscription.unsubscribe();
    const seqs: number[] = [];
    for await (const { seq } of subscription) seqs.push(seq);
    expect(seqs).toEqual([3, 4]);
    expect(gaps.map(({ from, reason }) => [from, reason])).toEqual([
      [1, "slow"],
      [2, "slow"],
    ]);
  });

  test("unsubscribes with the last subscriber, also by an abort signal", async () => {
    const subject = client();
    const abort = new AbortController();
    const first = subject.subscribe(TOPIC, { signal: abort.signal }, () => {});
    const second = subject.subscribe(TOPIC, {}, () => {});
    await settle();
    first.unsubscribe();
    await settle();
    expect(server.socket.requests("unsubscribe")).toEqual([]);
    second.unsubscribe();
    abort.abort();
    await settle();
    expect(server.socket.requests("unsubscribe")).toHaveLength(1);
  });

  test("waits for the answer to an unsubscribe before it subscribes again", async () => {
    const subject = client();
    const first = subject.subscribe(TOPIC, {}, () => {});
    await settle();
    server.ignoredActions.add("unsubscribe");
    first.unsubscribe();
    await settle();
    numbers(subject);
    await settle();
    expect(server.socket.requests("subscribe")).toHaveLength(1);
    const [request] = server.socket.requests("unsubscribe");
    server.socket.reply({ type: "unsubscribed", id: request?.["id"], topics: [TOPIC] });
    await settle();
    expect(server.socket.requests("subscribe")).toHaveLength(2);
  });

  test("resumes each topic at its position after a disconnect, and requests missing events", async () => {
    const subject = client();
    const [ticks, posts] = [numbers(subject), numbers(subject, OTHER)];
    await settle();
    server.socket.push(TOPIC, 1, 3);
    server.socket.push(OTHER, 1);
    server.heads.set(TOPIC, 7).set(OTHER, 1);
    server.socket.cut();
    await settle();
    expect(subject.state).toBe("waiting");
    await settle(1_000);
    expect(server.sockets).toHaveLength(2);
    expect(server.socket.requests("subscribe")[0]?.["since"]).toEqual({ [TOPIC]: 3, [OTHER]: 1 });
    server.socket.push(TOPIC, 9);
    server.socket.push(OTHER, 2);
    await settle();
    expect(server.socket.requests("replay").map(({ from, to }) => [from, to])).toEqual([[8, 8]]);
    expect(ticks).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(posts).toEqual([1, 2]);
  });

  test("resumes a topic that had no event from its start", async () => {
    const subject = client();
    const seqs = numbers(subject);
    await settle();
    server.socket.cut();
    server.heads.set(TOPIC, 2);
    await settle(1_000);
    expect(seqs).toEqual([1, 2]);
  });

  test("takes the events of another log, which is behind or ahead, and reports one gap", async () => {
    for (const head of [0, 2, 9, 20]) {
      server = new FakeServer();
      const subject = client();
      const gaps: Gap[] = [];
      subject.on("gap", (gap) => gaps.push(gap));
      const seqs = numbers(subject);
      await settle();
      server.socket.push(TOPIC, 1, 9);
      server.log = "log-2";
      server.heads.set(TOPIC, head);
      server.socket.cut();
      await settle(1_000);
      const [request] = server.socket.requests("subscribe");
      expect(request, `head ${head}`).toMatchObject({ since: { [TOPIC]: 9 }, log: "log-1" });
      server.socket.push(TOPIC, head + 1);
      expect(seqs, `head ${head}`).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, head + 1]);
      const from = head > 9 ? 10 : Math.min(1, head);
      expect(gaps, `head ${head}`).toEqual([{ topic: TOPIC, from, to: head, reason: "reset" }]);
      server.heads.set(TOPIC, head + 1);
      server.socket.cut();
      await settle(1_000);
      const [resumed] = server.socket.requests("subscribe");
      expect(resumed, `head ${head}`).toMatchObject({ since: { [TOPIC]: head + 1 }, log: "log-2" });
      subject.close();
    }
  });

  test("a number above the newest one means another log, even if its name is not known", async () => {
    server.heads.set(TOPIC, 2);
    const subject = client();
    const gaps: Gap[] = [];
    const seqs = numbers(subject, TOPIC, { since: 9, onGap: (gap: Gap) => gaps.push(gap) });
    await settle();
    expect(server.socket.requests("subscribe")[0]).not.toHaveProperty("log");
    server.socket.push(TOPIC, 3);
    expect(seqs).toEqual([3]);
    expect(gaps).toEqual([{ topic: TOPIC, from: 1, to: 2, reason: "reset" }]);
  });

  test("resumes after a number of a saved log", async () => {
    server.heads.set(TOPIC, 12);
    const subject = client();
    const same: number[] = [];
    const first = subject.subscribe(TOPIC, { since: 10, log: "log-1" }, ({ seq }) => same.push(seq));
    const other = numbers(subject, OTHER, { since: 10, log: "log-0" });
    await settle();
    expect(server.socket.requests("subscribe").map(({ log }) => log)).toEqual(["log-1", "log-0"]);
    server.socket.push(OTHER, 1);
    // A subscriber that is added later.
    const late = numbers(subject, TOPIC, { since: 3, log: "log-0" });
    await settle();
    server.socket.push(TOPIC, 13);
    expect([same, other, late]).toEqual([[11, 12, 13], [1], [13]]);
    expect(first.log).toBe("log-1");
  });

  test("an order book starts with a snapshot of another log", async () => {
    const book = "coinbase/level2/BTC-USD";
    const snapshot = (seq: number) =>
      server.socket.reply({ type: "events", frames: [{ topic: book, seq, at: "", events: [{ type: "snapshot" }] }] });
    const seqs = numbers(client(), book);
    await settle();
    snapshot(5);
    server.log = "log-2";
    server.heads.set(book, 70);
    server.socket.cut();
    await settle(1_000);
    const requests = server.socket.requests("subscribe");
    expect(requests.map(({ since }) => since)).toEqual([{ [book]: 5 }, undefined]);
    snapshot(70);
    expect(seqs).toEqual([5, 70]);
  });

  test("requests the last events of a topic if they do not arrive", async () => {
    const subject = client();
    const [ticks, posts] = [numbers(subject), numbers(subject, OTHER)];
    await settle();
    server.socket.push(TOPIC, 1);
    server.heads.set(TOPIC, 4).set(OTHER, 1).set("mastodon/tag/rust", 9);
    await settle(29_000);
    expect(server.socket.requests("ping")).toHaveLength(0);
    await settle(2_000);
    expect(server.socket.requests("ping")).toHaveLength(1);
    // One of them arrives in time.
    server.socket.push(OTHER, 1);
    await settle(3_000);
    expect(server.socket.requests("replay").map(({ topic, from, to }) => [topic, from, to])).toEqual([[TOPIC, 2, 4]]);
    expect([ticks, posts]).toEqual([[1, 2, 3, 4], [1]]);
    await settle(60_000);
    expect(server.socket.requests("replay")).toHaveLength(1);
  });

  test("does not request events that are on their way, or while the server does not know the newest numbers", async () => {
    const subject = client({ checkEvery: 1_000 });
    const seqs = numbers(subject);
    await settle();
    server.hasHeads = false;
    server.heads.set(TOPIC, 3);
    await settle(5_000);
    expect(server.socket.requests("ping").length).toBeGreaterThan(3);
    server.hasHeads = true;
    for (const seq of [1, 2, 3]) {
      await settle(2_000);
      server.socket.push(TOPIC, seq);
    }
    expect(server.socket.requests("replay")).toEqual([]);
    expect(seqs).toEqual([1, 2, 3]);
  });

  test("does not compare while events of every topic arrive", async () => {
    numbers(client());
    await settle();
    for (let seq = 1; seq <= 30; seq += 1) {
      server.socket.push(TOPIC, seq);
      await settle(10_000);
    }
    expect(server.socket.requests("ping")).toEqual([]);
    await settle(45_000);
    expect(server.socket.requests("ping")).toHaveLength(1);
  });

  test("can be set not to compare", async () => {
    numbers(client({ checkEvery: 0, keepAlive: 3_600_000 }));
    await settle(600_000);
    expect(server.socket.requests("ping")).toEqual([]);
  });

  test("a replay that is forbidden does not end the subscription", async () => {
    const subject = client();
    const gaps: Gap[] = [];
    const seqs = numbers(subject, TOPIC, { onGap: (gap: Gap) => gaps.push(gap) });
    await settle();
    server.ignoredActions.add("replay");
    server.socket.push(TOPIC, 2);
    await settle();
    const [replay] = server.socket.requests("replay");
    const message = "you do not have permission to read the history of this topic";
    server.socket.reply({ type: "error", id: replay?.["id"], code: "forbidden", message, topic: TOPIC });
    await settle(20_000);
    server.socket.push(TOPIC, 3);
    expect(seqs).toEqual([2, 3]);
    expect(gaps).toEqual([{ topic: TOPIC, from: 1, to: 1, reason: "lost" }]);
  });

  test("waits longer after each failure, and resets the backoff after events", async () => {
    server.handshakeError = "connection refused";
    const waits: number[] = [];
    const subject = client({ backoff: { min: 100, max: 1_000 } });
    subject.on("state", ({ state, retryAt }) => state === "waiting" && waits.push((retryAt ?? 0) - Date.now()));
    const seqs = numbers(subject);
    await settle(3_000);
    expect(waits.slice(0, 6)).toEqual([50, 100, 200, 400, 500, 500]);
    server.handshakeError = "";
    await settle(1_000);
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    server.socket.cut();
    await settle();
    expect(waits.at(-1)).toBe(50);
  });

  test("a server that accepts and disconnects does not reset the backoff", async () => {
    const waits: number[] = [];
    const subject = client({ backoff: { min: 100, max: 10_000 } });
    subject.on("state", ({ state, retryAt }) => {
      if (state === "waiting") waits.push((retryAt ?? 0) - Date.now());
      if (state === "open") server.socket.cut();
    });
    subject.connect();
    await settle(1_500);
    expect(waits).toEqual([50, 100, 200, 400, 800]);
  });

  test("renews the connection before the gateway closes it, without a visible change", async () => {
    server.expiresAt = new Date(Date.now() + 7_200_000).toISOString();
    const subject = client({ renewBefore: 60_000 });
    const states: string[] = [];
    subject.on("state", ({ state }) => states.push(state));
    const seqs = numbers(subject);
    await settle();
    const old = server.socket;
    old.push(TOPIC, 1, 2);
    server.expiresAt = "";
    server.heads.set(TOPIC, 3);
    server.hasHeads = false;
    server.ignoredActions.add("subscribe");
    await settle(7_140_500);
    expect(server.sockets).toHaveLength(2);
    expect(old.readyState, "the old connection stays open until the new one is subscribed").toBe(1);
    old.push(TOPIC, 3);
    const [request] = server.socket.requests("subscribe");
    expect(request?.["since"]).toEqual({ [TOPIC]: 2 });
    server.socket.reply({
      type: "subscribed",
      id: request?.["id"],
      log: server.log,
      topics: [{ topic: TOPIC, seq: 3, recovered: true }],
    });
    server.socket.push(TOPIC, 3);
    old.push(TOPIC, 4);
    await settle(100);
    expect(old.readyState).toBe(3);
    server.socket.push(TOPIC, 4, 2);
    expect(seqs).toEqual([1, 2, 3, 4, 5]);
    expect(states).toEqual(["connecting", "open"]);
    expect(subject.state).toBe("open");
    server.ignoredActions.clear();
    server.socket.cut();
    await settle(1_000);
    expect(server.sockets).toHaveLength(3);
  });

  test("pings a silent server, and reconnects if it does not answer", async () => {
    numbers(client({ keepAlive: 1_000 }));
    await settle(1_500);
    expect(server.socket.requests("ping")).toHaveLength(1);
    server.ignoredActions.add("ping");
    await settle(25_000);
    expect(server.sockets).toHaveLength(2);
  });

  test("respects the rate limit, and repeats the requests that were rejected by it", async () => {
    const subject = client();
    subject.connect();
    await settle();
    const pings = Array.from({ length: 30 }, () => subject.ping());
    await settle(500);
    expect(server.socket.requests("ping").length).toBeLessThan(16);
    await settle(3_000);
    await Promise.all(pings);
    server.ignoredActions.add("subscribe");
    const seqs = numbers(subject);
    await settle();
    server.ignoredActions.clear();
    server.socket.reply({ type: "error", code: "rate_limited", message: "too fast" });
    await settle(4_000);
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    expect(server.socket.requests("subscribe")).toHaveLength(2);
  });

  test("a rejected topic ends its subscription with the error, but no other", async () => {
    const subject = client();
    const errors: Error[] = [];
    subject.on("error", (error) => errors.push(error));
    const bad = subject.subscribe("mastodon/lang/bad");
    const good = numbers(subject);
    const failed = (async () => {
      for await (const _ of bad);
    })();
    await expect(Promise.race([failed, settle(1)])).rejects.toThrow("unknown topic");
    server.socket.push(TOPIC, 1);
    expect(good).toEqual([1]);
    expect(errors[0]).toBeInstanceOf(RequestError);
    const reported: Error[] = [];
    subject.subscribe("mastodon/lang/bad", { onError: (error) => reported.push(error) }, () => {});
    await settle();
    expect(reported.map((error) => (error as RequestError).code)).toEqual(["unknown_topic"]);
    expect(errors).toHaveLength(1);
  });

  test("a temporary error is retried", async () => {
    server.ignoredActions.add("subscribe");
    const seqs = numbers(client());
    await settle();
    const [request] = server.socket.requests("subscribe");
    server.ignoredActions.clear();
    server.socket.reply({
      type: "error",
      id: request?.["id"],
      code: "unavailable",
      message: "the database is unavailable",
    });
    await settle(3_000);
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
  });

  test("a late subscriber gets past events by a replay, without affecting the others", async () => {
    server.heads.set(TOPIC, 10);
    const subject = client();
    const first = numbers(subject);
    await settle();
    server.socket.push(TOPIC, 11);
    const second = numbers(subject, TOPIC, { last: 3 });
    const third = numbers(subject, TOPIC, { since: 10 });
    await settle();
    server.socket.push(TOPIC, 12);
    expect([first, second, third]).toEqual([
      [11, 12],
      [9, 10, 11, 12],
      [11, 12],
    ]);
    expect(server.socket.requests("subscribe")).toHaveLength(1);
  });

  test("a subscriber that is added during a request misses nothing", async () => {
    server.heads.set(TOPIC, 10);
    server.ignoredActions.add("subscribe");
    const subject = client();
    const first = numbers(subject, TOPIC, { last: 1 });
    await settle();
    const second = numbers(subject, TOPIC, { last: 3 });
    const [request] = server.socket.requests("subscribe");
    server.socket.reply({
      type: "subscribed",
      id: request?.["id"],
      log: server.log,
      topics: [{ topic: TOPIC, seq: 10 }],
    });
    server.socket.push(TOPIC, 10);
    await settle();
    expect(first).toEqual([10]);
    expect(second).toEqual([8, 9, 10]);
  });

  test("requests a token from the provider for each connection", async () => {
    let turn = 0;
    const subject = client({ token: async () => `jwt${++turn}` });
    subject.connect();
    await settle();
    server.socket.cut();
    await settle(1_000);
    expect(server.sockets.map((socket) => socket.protocols[1])).toEqual(["bearer.jwt1", "bearer.jwt2"]);
  });

  test("reports a rejected token", async () => {
    server.handshakeError = "Unexpected server response: 401";
    const subject = client({ token: "jwt" });
    const errors: string[] = [];
    subject.on("error", (error) => errors.push(`${error.name}: ${error.message}`));
    subject.connect();
    await settle();
    expect(errors).toEqual(["TokenError: the server rejected the token"]);
  });

  test("authenticates with a new connection if the server does not support `authenticate`", async () => {
    let token: string | undefined;
    const subject = client({ token: () => token });
    const classes: string[] = [];
    subject.on("welcome", (welcome) => classes.push(welcome.class));
    const seqs = numbers(subject);
    await settle();
    server.socket.push(TOPIC, 1);
    token = "jwt";
    server.class = "trader";
    server.heads.set(TOPIC, 2);
    const done = subject.authenticate();
    await settle(100);
    await done;
    expect(server.sockets.map((socket) => socket.protocols.length)).toEqual([1, 2]);
    expect(classes).toEqual(["anonymous", "trader"]);
    expect(seqs).toEqual([1, 2]);
    server.handshakeError = "401";
    const refused = expect(subject.authenticate()).rejects.toThrow("rejected the token");
    await settle(100);
    await refused;
    server.socket.push(TOPIC, 3);
    expect(seqs, "the old connection is still in use").toEqual([1, 2]);
  });

  test("authenticates over the open connection before the token expires", async () => {
    let turn = 0;
    server.tokenLife = 600_000;
    const subject = client({ token: () => `jwt${++turn}` });
    const classes: string[] = [];
    subject.on("welcome", (welcome) => classes.push(`${welcome.class} ${welcome.limits.topics}`));
    subject.connect();
    await settle(560_000);
    expect(server.socket.requests("authenticate")).toEqual([]);
    server.class = "trader";
    await settle(15_000);
    expect(server.socket.requests("authenticate").map(({ token }) => token)).toEqual(["jwt2"]);
    expect(classes).toEqual(["anonymous 50", "trader 100"]);
    await settle(590_000);
    expect(server.socket.requests("authenticate").map(({ token }) => token)).toEqual(["jwt2", "jwt3"]);
    expect(server.sockets).toHaveLength(1);
  });

  test("distinguishes an invalid token from one that requires a new connection", async () => {
    let token = "jwt";
    server.tokenLife = 600_000;
    const subject = client({ token: () => token });
    subject.connect();
    await settle();
    token = "bad";
    await expect(subject.authenticate()).rejects.toThrow("the token is invalid");
    expect(server.sockets).toHaveLength(1);
    token = "other";
    const done = subject.authenticate();
    await settle(100);
    await done;
    expect(server.sockets).toHaveLength(2);
  });

  test("a topic that is no longer allowed ends with the error", async () => {
    const subject = client();
    const reported: string[] = [];
    subject.subscribe(TOPIC, { onError: (error) => reported.push(error.message) }, () => {});
    const other = numbers(subject, OTHER);
    await settle();
    server.socket.reply({ type: "error", code: "forbidden", message: "tickers require another class", topic: TOPIC });
    server.socket.push(OTHER, 1);
    expect(reported).toEqual(["tickers require another class"]);
    expect(other).toEqual([1]);
    await settle();
    numbers(subject);
    await settle();
    expect(server.socket.requests("subscribe").at(-1)?.["topics"]).toEqual([TOPIC]);
  });

  test("ignores messages that are not part of the protocol", async () => {
    const subject = client();
    const errors: string[] = [];
    subject.on("error", (error) => errors.push(error.message));
    const seqs = numbers(subject);
    await settle();
    const socket = server.socket;
    for (const data of ["", "nonsense", "[]", "7", "null", '{"x":1}', '{"type":"novel"}']) socket.onmessage?.({ data });
    socket.reply({ message: "Internal server error", connectionId: "c", requestId: "r" });
    socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    expect(errors).toEqual(["the gateway sent an error: Internal server error"]);
  });

  test("a callback that throws does not affect the other subscriptions", async () => {
    const subject = client();
    const thrown: unknown[] = [];
    const listener = (error: unknown) => thrown.push(error);
    process.on("uncaughtException", listener);
    subject.subscribe(TOPIC, {}, () => {
      throw new Error("mine");
    });
    const seqs = numbers(subject);
    await settle();
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    await expect(settle()).rejects.toThrow("mine");
    process.off("uncaughtException", listener);
  });

  test("a closed client ends its iterations and rejects new subscriptions", async () => {
    const subject = client();
    const subscription = subject.subscribe(TOPIC);
    await settle();
    const read = subscription[Symbol.asyncIterator]().next();
    subject.close();
    expect(await read).toEqual({ done: true, value: undefined });
    expect(() => subject.subscribe(TOPIC)).toThrow("closed");
    expect(server.socket.readyState).toBe(3);
  });
});

describe("a hidden page", () => {
  let visible: "visible" | "hidden";
  let page: EventTarget;

  beforeEach(() => {
    visible = "visible";
    page = new EventTarget();
    Object.defineProperty(page, "visibilityState", { get: () => visible });
    vi.stubGlobal("document", page);
  });

  afterEach(() => vi.unstubAllGlobals());

  const show = (state: typeof visible) => {
    visible = state;
    page.dispatchEvent(new Event("visibilitychange"));
  };

  test("pauses the connection after a while, and resumes when the page is visible", async () => {
    const subject = client({ pauseWhenHidden: 1_000 });
    const seqs = numbers(subject);
    await settle();
    server.socket.push(TOPIC, 1);
    show("hidden");
    await settle(900);
    show("visible");
    await settle(900);
    expect(subject.state).toBe("open");
    show("hidden");
    await settle(1_100);
    expect(subject.state).toBe("paused");
    server.heads.set(TOPIC, 5);
    await settle(600_000);
    expect(server.sockets).toHaveLength(1);
    show("visible");
    await settle();
    expect(subject.state).toBe("open");
    expect(seqs).toEqual([1, 2, 3, 4, 5]);
  });
});
