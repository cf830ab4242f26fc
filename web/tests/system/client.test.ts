/** The client against the real server, with network faults injected by a relay. */

import { connect, type Gap, type Headwater, type Options, Rest } from "headwater-client";
import { afterAll, test as base, beforeAll, describe, expect, vi } from "vitest";
import { HeadwaterServer } from "../harness/headwater.ts";
import { Relay } from "../harness/relay.ts";

const TOPICS = ["coinbase/ticker/BTC-USD", "coinbase/matches/BTC-USD", "mastodon/public"] as const;

/** The server of all tests that leave it as it was. */
let shared: HeadwaterServer;

beforeAll(async () => {
  shared = await HeadwaterServer.start({ rate: 100 });
});

afterAll(() => shared.stop());

/** What one test creates, and what is cleaned up after it. */
class Lab {
  readonly #cleanups: (() => unknown)[] = [];

  connect(url: string, options: Options = {}): Headwater {
    const client = connect(url, { backoff: { min: 50, max: 500 }, ...options });
    this.#cleanups.push(() => client.close());
    return client;
  }

  /** Connects through a relay of its own. */
  async connectThroughRelay(options: Options = {}): Promise<{ client: Headwater; relay: Relay }> {
    const relay = await Relay.start(shared.socketUrl);
    this.#cleanups.push(() => relay.stop());
    return { client: this.connect(relay.url, options), relay };
  }

  /** Starts a server for this test only. */
  async startServer(options: Parameters<typeof HeadwaterServer.start>[0]): Promise<HeadwaterServer> {
    const server = await HeadwaterServer.start(options);
    this.#cleanups.push(() => server.stop());
    return server;
  }

  async cleanUp(): Promise<void> {
    for (const cleanup of this.#cleanups.reverse()) await cleanup();
  }
}

const test = base.extend<{ lab: Lab }>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest reads the pattern
  lab: async ({}, use) => {
    const lab = new Lab();
    await use(lab);
    await lab.cleanUp();
  },
});

/** Subscribes to topics and records every sequence number and every gap. */
function record(client: Headwater, topics: readonly string[] = TOPICS) {
  const seqs = new Map<string, number[]>(topics.map((topic) => [topic, []]));
  const gaps: Gap[] = [];
  client.on("gap", (gap) => gaps.push(gap));
  for (const topic of topics) {
    client.subscribe(topic, { last: 3 }, ({ seq }) => seqs.get(topic)?.push(seq));
  }
  /** Waits until every topic has `count` more events. */
  const more = async (count: number) => {
    const goals = topics.map((topic) => [topic, (seqs.get(topic)?.length ?? 0) + count] as const);
    await until(() => goals.every(([topic, goal]) => (seqs.get(topic)?.length ?? 0) >= goal)).catch(
      (error: unknown) => {
        const found = JSON.stringify({ state: client.state, seqs: [...seqs], goals, gaps });
        throw new Error(`events are missing: ${found}`, { cause: error });
      },
    );
  };
  return { seqs, gaps, more };
}

function until(condition: () => boolean): Promise<boolean> {
  return vi.waitUntil(condition, { timeout: 45_000, interval: 10 });
}

/** Expects every number from the first to the last, once and in order. */
function expectContiguous(seqs: Map<string, number[]>): void {
  for (const [topic, numbers] of seqs) {
    const first = numbers[0] ?? 0;
    const contiguous = numbers.every((seq, index) => seq === first + index);
    expect(contiguous, `${topic}: ${JSON.stringify(numbers)}`).toBe(true);
  }
}

// Most of the time of these tests is spent waiting for timeouts, so all of them run at the same time.
describe.concurrent("the client and the server", () => {
  test("the newest events of a topic come first, then the live ones", async ({ lab }) => {
    const { seqs, gaps, more } = record(lab.connect(shared.socketUrl));
    await more(5);
    expectContiguous(seqs);
    expect(gaps).toEqual([]);
  });

  test("repeated disconnects lose no event", async ({ lab }) => {
    const { client, relay } = await lab.connectThroughRelay();
    const { seqs, gaps, more } = record(client);
    for (let round = 0; round < 5; round += 1) {
      await more(2);
      relay.cut();
    }
    await more(3);
    expect(relay.accepted).toBeGreaterThan(5);
    expectContiguous(seqs);
    expect(gaps).toEqual([]);
  });

  test("duplicate messages are delivered once", async ({ lab }) => {
    const { client, relay } = await lab.connectThroughRelay();
    relay.duplicates = true;
    const { seqs, more } = record(client);
    await more(8);
    expectContiguous(seqs);
  });

  test("dropped messages are requested again", async ({ lab }) => {
    const { client, relay } = await lab.connectThroughRelay();
    relay.dropEvery = 7;
    const { seqs, gaps, more } = record(client);
    await until(() => relay.dropped > 3);
    await more(2);
    expectContiguous(seqs);
    expect(gaps).toEqual([]);
  });

  test("the client catches up after the server was killed and restarted", async ({ lab }) => {
    const server = await lab.startServer({ durable: true, rate: 100 });
    const { seqs, gaps, more } = record(lab.connect(server.socketUrl));
    await more(3);
    await server.kill();
    await server.launch();
    await more(5);
    expectContiguous(seqs);
    expect(gaps).toEqual([]);
  });

  test("the client takes the events of another log after a server without a folder was restarted", async ({ lab }) => {
    const server = await lab.startServer({ rate: 100 });
    const client = lab.connect(server.socketUrl);
    const { seqs, gaps, more } = record(client, [TOPICS[0]]);
    let before = 0;
    client.on("gap", () => {
      before = seqs.get(TOPICS[0])?.length ?? 0;
    });
    await more(20);
    await server.kill();
    await server.launch();
    await more(20);
    expect(gaps.map(({ reason }) => reason)).toEqual(["reset"]);
    const after = (seqs.get(TOPICS[0]) ?? []).slice(before);
    expect(after.map((seq, index) => seq - index)).toEqual(after.map(() => (gaps[0]?.to ?? 0) + 1));
  });

  test("a silent connection is detected and replaced", async ({ lab }) => {
    const { client, relay } = await lab.connectThroughRelay({ keepAlive: 500 });
    const { seqs, more } = record(client, [TOPICS[0]]);
    await more(1);
    relay.silent = true;
    // The relay is silent only for the first connection.
    client.on("state", () => {
      relay.silent = false;
    });
    await until(() => relay.accepted > 1);
    await more(2);
    expectContiguous(seqs);
  });

  test("renewing the connection before the gateway's limit loses nothing and is invisible", async ({ lab }) => {
    const { client, relay } = await lab.connectThroughRelay({ renewBefore: 7_200_000 - 1_000 });
    const states: string[] = [];
    client.on("state", ({ state }) => states.push(state));
    const { seqs, gaps, more } = record(client);
    await until(() => relay.accepted >= 3);
    await more(3);
    expectContiguous(seqs);
    expect(gaps).toEqual([]);
    expect(states).toEqual(["connecting", "open"]);
  });

  test("a saved sequence number is where another client resumes", async ({ lab }) => {
    const topic = TOPICS[1];
    const client = lab.connect(shared.socketUrl);
    const first = client.subscribe(topic);
    for await (const _ of first) break;
    const seq = first.seq as number;
    client.close();
    for await (const delivery of lab.connect(shared.socketUrl).subscribe(topic, { since: seq })) {
      expect(delivery.seq).toBe(seq + 1);
      expect(delivery.event.product_id).toBe("BTC-USD");
      break;
    }
  });

  test("a late subscriber gets past events without another subscription on the server", async ({ lab }) => {
    const client = lab.connect(shared.socketUrl);
    const { more } = record(client, [TOPICS[1]]);
    await more(4);
    const late: number[] = [];
    client.subscribe(TOPICS[1], { last: 4 }, ({ seq }) => late.push(seq));
    await until(() => late.length >= 6);
    expectContiguous(new Map([["late", late]]));
    expect(await client.list()).toEqual([TOPICS[1]]);
  });

  test("an order book starts with a snapshot, also for the second subscriber", async ({ lab }) => {
    const client = lab.connect(shared.socketUrl);
    for (let subscriber = 0; subscriber < 2; subscriber += 1) {
      const types: string[] = [];
      client.subscribe("coinbase/level2/ETH-USD", {}, ({ event }) => types.push(event.type));
      await until(() => types.length >= 3);
      expect(types[0]).toBe("snapshot");
    }
  });

  test("an unknown pair is rejected with the names of similar pairs", async ({ lab }) => {
    const reading = (async () => {
      for await (const _ of lab.connect(shared.socketUrl).subscribe("coinbase/ticker/BTC-USDD"));
    })();
    await expect(reading).rejects.toThrow(/did you mean .*BTC-USD/);
  });

  test("two spellings of a topic are the same topic", async ({ lab }) => {
    const rest = new Rest(shared.url);
    for await (const { topic, seq } of lab.connect(shared.socketUrl).subscribe("mastodon/lang/EN")) {
      expect(topic).toBe("mastodon/lang/en");
      const { events } = await rest.history("mastodon/lang/EN", { after: seq - 1, limit: 1 });
      expect(events[0]?.seq).toBe(seq);
      break;
    }
  });

  test("a token changes the class at once and no event is missed", async ({ lab }) => {
    const guarded = await lab.startServer({ rate: 100, tokens: true });
    let token: string | undefined;
    const client = lab.connect(guarded.socketUrl, { token: () => token });
    // Topics that an anonymous client may read.
    const { seqs, gaps, more } = record(client, ["coinbase/ticker/BTC-USD", "mastodon/public"]);
    await more(2);
    expect(client.welcome?.class).toBe("anonymous");
    token = guarded.token("trader");
    await client.authenticate();
    await until(() => client.welcome?.class === "trader");
    await more(2);
    token = `${token}x`;
    await expect(client.authenticate()).rejects.toThrow();
    await more(2);
    expect(client.welcome?.class).toBe("trader");
    expectContiguous(seqs);
    expect(gaps).toEqual([]);
  });

  test("the REST interface starts and stops topics on the connection", async ({ lab }) => {
    const client = lab.connect(shared.socketUrl);
    const rest = new Rest(shared.url);
    client.connect();
    await until(() => client.welcome !== undefined);
    const { welcome } = client;
    if (!welcome) throw new Error("the client has no welcome");
    const frames: string[] = [];
    client.on("frame", ({ topic }) => frames.push(topic));
    expect(await rest.start("coinbase/ticker/ETH-USD", welcome)).toBe(true);
    expect(await rest.start("coinbase/ticker/ETH-USD", welcome)).toBe(false);
    await until(() => frames.includes("coinbase/ticker/ETH-USD"));
    await rest.stop("coinbase/ticker/ETH-USD", welcome);
    expect(await client.list()).toEqual([]);
    await expect(rest.start("coinbase/ticker/NO-SUCH", welcome)).rejects.toThrow("NO-SUCH");
    expect((await rest.status()).data).toBe("simulated");
    expect(await rest.topics("eth-eur")).toContainEqual(expect.objectContaining({ topic: "coinbase/ticker/ETH-EUR" }));
  });

  test("a ping measures the round trip and the clock offset", async ({ lab }) => {
    const client = lab.connect(shared.socketUrl);
    await record(client).more(1);
    const { roundTrip, clockAhead } = await client.ping();
    expect(roundTrip).toBeGreaterThanOrEqual(0);
    expect(Math.abs(clockAhead)).toBeLessThan(1_000);
  });
});
