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
  expect(vi.getTimerCount(), "no timer outlives a client").toBe(0);
  vi.useRealTimers();
});

function client(options: Options = {}): Headwater {
  const it = new Headwater("ws://test/live", { WebSocket: server.WebSocket, random: () => 0.5, ...options });
  clients.push(it);
  return it;
}

/** Lets everything happen that needs no time. */
const settle = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

/** Follows a topic, and returns the numbers that arrive. */
function numbers(it: Headwater, topic: string = TOPIC, options = {}): number[] {
  const seqs: number[] = [];
  it.subscribe(topic, options, ({ seq }) => seqs.push(seq));
  return seqs;
}

describe("a client", () => {
  test("subscribes once for all wishes of a moment, and hands out events", async () => {
    const it = client();
    const [first, second, other] = [numbers(it), numbers(it), numbers(it, OTHER)];
    await settle();
    expect(server.socket.protocols).toEqual(["headwater.v1"]);
    expect(server.socket.requests("subscribe").map((it) => it["topics"])).toEqual([[TOPIC, OTHER]]);
    server.socket.push(TOPIC, 1, 2);
    server.socket.push(OTHER, 1);
    expect([first, second, other]).toEqual([[1, 2], [1, 2], [1]]);
  });

  test("gives events of a topic's type", () => {
    const it = client();
    const ticks = it.subscribe(TOPIC);
    expectTypeOf(ticks).toExtend<AsyncIterable<Delivery<Ticker>>>();
    it.subscribe(OTHER, {}, ({ event }) => expectTypeOf(event).toEqualTypeOf<PostEvent>());
  });

  test("iterates until the loop is left, and then unsubscribes", async () => {
    const it = client();
    const seqs: number[] = [];
    const reading = (async () => {
      for await (const { seq } of it.subscribe(TOPIC)) {
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

  test("an iterator that is not read gives up the oldest and says so", async () => {
    const it = client();
    const gaps: Gap[] = [];
    const subscription = it.subscribe(TOPIC, { buffer: 2, onGap: (gap) => gaps.push(gap) });
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

  test("unsubscribes when the last reader goes, and an abort signal is a way to go", async () => {
    const it = client();
    const abort = new AbortController();
    const first = it.subscribe(TOPIC, { signal: abort.signal }, () => {});
    const second = it.subscribe(TOPIC, {}, () => {});
    await settle();
    first.unsubscribe();
    await settle();
    expect(server.socket.requests("unsubscribe")).toEqual([]);
    second.unsubscribe();
    abort.abort();
    await settle();
    expect(server.socket.requests("unsubscribe")).toHaveLength(1);
  });

  test("waits for the answer before it asks for the opposite", async () => {
    const it = client();
    const first = it.subscribe(TOPIC, {}, () => {});
    await settle();
    server.ignores.add("unsubscribe");
    first.unsubscribe();
    await settle();
    numbers(it);
    await settle();
    expect(server.socket.requests("subscribe")).toHaveLength(1);
    const [request] = server.socket.requests("unsubscribe");
    server.socket.say({ type: "unsubscribed", id: request?.["id"], topics: [TOPIC] });
    await settle();
    expect(server.socket.requests("subscribe")).toHaveLength(2);
  });

  test("resumes after a cut where each topic stood, and asks for what is missing", async () => {
    const it = client();
    const [ticks, posts] = [numbers(it), numbers(it, OTHER)];
    await settle();
    server.socket.push(TOPIC, 1, 3);
    server.socket.push(OTHER, 1);
    server.heads.set(TOPIC, 7).set(OTHER, 1);
    server.socket.cut();
    await settle();
    expect(it.state).toBe("waiting");
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

  test("resumes a topic without events from its beginning", async () => {
    const it = client();
    const seqs = numbers(it);
    await settle();
    server.socket.cut();
    server.heads.set(TOPIC, 2);
    await settle(1_000);
    expect(seqs).toEqual([1, 2]);
  });

  test("tells of a log that begins anew", async () => {
    const it = client();
    const gaps: Gap[] = [];
    it.on("gap", (gap) => gaps.push(gap));
    const seqs = numbers(it);
    await settle();
    server.socket.push(TOPIC, 1, 9);
    server.heads.set(TOPIC, 2);
    server.socket.cut();
    await settle(1_000);
    server.socket.push(TOPIC, 3);
    expect(seqs).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 3]);
    expect(gaps).toEqual([{ topic: TOPIC, from: 3, to: 9, reason: "restarted" }]);
  });

  test("waits longer after each failure, and starts over after events came", async () => {
    server.refuses = "connection refused";
    const waits: number[] = [];
    const it = client({ backoff: { min: 100, max: 1_000 } });
    it.on("state", ({ state, retryAt }) => state === "waiting" && waits.push((retryAt ?? 0) - Date.now()));
    const seqs = numbers(it);
    await settle(3_000);
    expect(waits.slice(0, 6)).toEqual([50, 100, 200, 400, 500, 500]);
    server.refuses = "";
    await settle(1_000);
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    server.socket.cut();
    await settle();
    expect(waits.at(-1)).toBe(50);
  });

  test("a server that accepts and hangs up is not taken for a healthy one", async () => {
    const waits: number[] = [];
    const it = client({ backoff: { min: 100, max: 10_000 } });
    it.on("state", ({ state, retryAt }) => {
      if (state === "waiting") waits.push((retryAt ?? 0) - Date.now());
      if (state === "open") server.socket.cut();
    });
    it.connect();
    await settle(1_500);
    expect(waits).toEqual([50, 100, 200, 400, 800]);
  });

  test("connects anew before the gateway ends the connection, and nobody notices", async () => {
    server.expiresAt = new Date(Date.now() + 7_200_000).toISOString();
    const it = client({ renewBefore: 60_000 });
    const states: string[] = [];
    it.on("state", ({ state }) => states.push(state));
    const seqs = numbers(it);
    await settle();
    const old = server.socket;
    old.push(TOPIC, 1, 2);
    server.expiresAt = "";
    server.heads.set(TOPIC, 3);
    server.ignores.add("subscribe");
    await settle(7_140_500);
    expect(server.sockets).toHaveLength(2);
    expect(old.readyState, "the old one stays until the new one is subscribed").toBe(1);
    old.push(TOPIC, 3);
    const [request] = server.socket.requests("subscribe");
    expect(request?.["since"]).toEqual({ [TOPIC]: 2 });
    server.socket.say({ type: "subscribed", id: request?.["id"], topics: [{ topic: TOPIC, seq: 3, recovered: true }] });
    server.socket.push(TOPIC, 3);
    old.push(TOPIC, 4);
    await settle(100);
    expect(old.readyState).toBe(3);
    server.socket.push(TOPIC, 4, 2);
    expect(seqs).toEqual([1, 2, 3, 4, 5]);
    expect(states).toEqual(["connecting", "open"]);
    expect(it.state).toBe("open");
    server.ignores.clear();
    server.socket.cut();
    await settle(1_000);
    expect(server.sockets).toHaveLength(3);
  });

  test("pings when it is quiet, and leaves a server that does not answer", async () => {
    numbers(client({ keepAlive: 1_000 }));
    await settle(1_500);
    expect(server.socket.requests("ping")).toHaveLength(1);
    server.ignores.add("ping");
    await settle(25_000);
    expect(server.sockets).toHaveLength(2);
  });

  test("sends no more than the server takes, and repeats what it was refused for haste", async () => {
    const it = client();
    it.connect();
    await settle();
    const pings = Array.from({ length: 30 }, () => it.ping());
    await settle(500);
    expect(server.socket.requests("ping").length).toBeLessThan(16);
    await settle(3_000);
    await Promise.all(pings);
    server.ignores.add("subscribe");
    const seqs = numbers(it);
    await settle();
    server.ignores.clear();
    server.socket.say({ type: "error", code: "rate_limited", message: "too fast" });
    await settle(4_000);
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    expect(server.socket.requests("subscribe")).toHaveLength(2);
  });

  test("a refused topic ends its subscription with the reason, and not the others", async () => {
    const it = client();
    const errors: Error[] = [];
    it.on("error", (error) => errors.push(error));
    const bad = it.subscribe("mastodon/lang/bad");
    const good = numbers(it);
    const failed = (async () => {
      for await (const _ of bad);
    })();
    await expect(Promise.race([failed, settle(1)])).rejects.toThrow("no such topic");
    server.socket.push(TOPIC, 1);
    expect(good).toEqual([1]);
    expect(errors[0]).toBeInstanceOf(RequestError);
    const told: Error[] = [];
    it.subscribe("mastodon/lang/bad", { onError: (error) => told.push(error) }, () => {});
    await settle();
    expect(told.map((error) => (error as RequestError).code)).toEqual(["unknown_topic"]);
    expect(errors).toHaveLength(1);
  });

  test("a fault that passes is tried again", async () => {
    server.ignores.add("subscribe");
    const seqs = numbers(client());
    await settle();
    const [request] = server.socket.requests("subscribe");
    server.ignores.clear();
    server.socket.say({ type: "error", id: request?.["id"], code: "unavailable", message: "the database is away" });
    await settle(3_000);
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
  });

  test("a late reader gets its past by a replay, without disturbing the others", async () => {
    server.heads.set(TOPIC, 10);
    const it = client();
    const first = numbers(it);
    await settle();
    server.socket.push(TOPIC, 11);
    const second = numbers(it, TOPIC, { last: 3 });
    const third = numbers(it, TOPIC, { since: 10 });
    await settle();
    server.socket.push(TOPIC, 12);
    expect([first, second, third]).toEqual([
      [11, 12],
      [9, 10, 11, 12],
      [11, 12],
    ]);
    expect(server.socket.requests("subscribe")).toHaveLength(1);
  });

  test("a reader that comes while the server is asked misses nothing", async () => {
    server.heads.set(TOPIC, 10);
    server.ignores.add("subscribe");
    const it = client();
    const first = numbers(it, TOPIC, { last: 1 });
    await settle();
    const second = numbers(it, TOPIC, { last: 3 });
    const [request] = server.socket.requests("subscribe");
    server.socket.say({ type: "subscribed", id: request?.["id"], topics: [{ topic: TOPIC, seq: 10 }] });
    server.socket.push(TOPIC, 10);
    await settle();
    expect(first).toEqual([10]);
    expect(second).toEqual([8, 9, 10]);
  });

  test("asks the provider for a token at each connection", async () => {
    let turn = 0;
    const it = client({ token: async () => `jwt${++turn}` });
    it.connect();
    await settle();
    server.socket.cut();
    await settle(1_000);
    expect(server.sockets.map((socket) => socket.protocols[1])).toEqual(["bearer.jwt1", "bearer.jwt2"]);
  });

  test("says that a token is not taken", async () => {
    server.refuses = "Unexpected server response: 401";
    const it = client({ token: "jwt" });
    const errors: string[] = [];
    it.on("error", (error) => errors.push(`${error.name}: ${error.message}`));
    it.connect();
    await settle();
    expect(errors).toEqual(["TokenError: the server does not take the token"]);
  });

  test("shows a new token over a new connection where the server cannot take it over the old one", async () => {
    let token: string | undefined;
    const it = client({ token: () => token });
    const classes: string[] = [];
    it.on("welcome", (welcome) => classes.push(welcome.class));
    const seqs = numbers(it);
    await settle();
    server.socket.push(TOPIC, 1);
    token = "jwt";
    server.class = "trader";
    server.heads.set(TOPIC, 2);
    const done = it.authenticate();
    await settle(100);
    await done;
    expect(server.sockets.map((socket) => socket.protocols.length)).toEqual([1, 2]);
    expect(classes).toEqual(["anonymous", "trader"]);
    expect(seqs).toEqual([1, 2]);
    server.refuses = "401";
    const refused = expect(it.authenticate()).rejects.toThrow("does not take the token");
    await settle(100);
    await refused;
    server.socket.push(TOPIC, 3);
    expect(seqs, "the connection is as good as before").toEqual([1, 2]);
  });

  test("shows another token over the open connection before the one it has expires", async () => {
    let turn = 0;
    server.tokenLife = 600_000;
    const it = client({ token: () => `jwt${++turn}` });
    const classes: string[] = [];
    it.on("welcome", (welcome) => classes.push(`${welcome.class} ${welcome.limits.topics}`));
    it.connect();
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

  test("tells a token that is not good from one that needs a new connection", async () => {
    let token = "jwt";
    server.tokenLife = 600_000;
    const it = client({ token: () => token });
    it.connect();
    await settle();
    token = "bad";
    await expect(it.authenticate()).rejects.toThrow("the token is not good");
    expect(server.sockets).toHaveLength(1);
    token = "other";
    const done = it.authenticate();
    await settle(100);
    await done;
    expect(server.sockets).toHaveLength(2);
  });

  test("a topic that is no longer allowed ends with the reason", async () => {
    const it = client();
    const told: string[] = [];
    it.subscribe(TOPIC, { onError: (error) => told.push(error.message) }, () => {});
    const other = numbers(it, OTHER);
    await settle();
    server.socket.say({ type: "error", code: "forbidden", message: "tickers are for others", topic: TOPIC });
    server.socket.push(OTHER, 1);
    expect(told).toEqual(["tickers are for others"]);
    expect(other).toEqual([1]);
    await settle();
    numbers(it);
    await settle();
    expect(server.socket.requests("subscribe").at(-1)?.["topics"]).toEqual([TOPIC]);
  });

  test("survives what is no message of the protocol", async () => {
    const it = client();
    const errors: string[] = [];
    it.on("error", (error) => errors.push(error.message));
    const seqs = numbers(it);
    await settle();
    const socket = server.socket;
    for (const data of ["", "nonsense", "[]", "7", "null", '{"x":1}', '{"type":"novel"}']) socket.onmessage?.({ data });
    socket.say({ message: "Internal server error", connectionId: "c", requestId: "r" });
    socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    expect(errors).toEqual(["the gateway says: Internal server error"]);
  });

  test("a callback that throws disturbs nobody", async () => {
    const it = client();
    const thrown: unknown[] = [];
    const catcher = (error: unknown) => thrown.push(error);
    process.on("uncaughtException", catcher);
    it.subscribe(TOPIC, {}, () => {
      throw new Error("mine");
    });
    const seqs = numbers(it);
    await settle();
    server.socket.push(TOPIC, 1);
    expect(seqs).toEqual([1]);
    await expect(settle()).rejects.toThrow("mine");
    process.off("uncaughtException", catcher);
  });

  test("a closed client ends its iterations and takes no more", async () => {
    const it = client();
    const subscription = it.subscribe(TOPIC);
    await settle();
    const read = subscription[Symbol.asyncIterator]().next();
    it.close();
    expect(await read).toEqual({ done: true, value: undefined });
    expect(() => it.subscribe(TOPIC)).toThrow("closed");
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

  test("pauses the connection after a while, and resumes when it is seen", async () => {
    const it = client({ pauseWhenHidden: 1_000 });
    const seqs = numbers(it);
    await settle();
    server.socket.push(TOPIC, 1);
    show("hidden");
    await settle(900);
    show("visible");
    await settle(900);
    expect(it.state).toBe("open");
    show("hidden");
    await settle(1_100);
    expect(it.state).toBe("paused");
    server.heads.set(TOPIC, 5);
    await settle(600_000);
    expect(server.sockets).toHaveLength(1);
    show("visible");
    await settle();
    expect(it.state).toBe("open");
    expect(seqs).toEqual([1, 2, 3, 4, 5]);
  });
});
