/** The client against the real server, with trouble on the way. */

import { type Headwater as Client, connect, type Gap, type Options, Rest } from "headwater-client";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { Headwater } from "../harness/headwater.ts";
import { Relay } from "../harness/relay.ts";

const TOPICS = ["coinbase/ticker/BTC-USD", "coinbase/matches/BTC-USD", "mastodon/public"] as const;

let headwater: Headwater;
let relay: Relay;
let clients: Client[] = [];

beforeAll(async () => {
  headwater = await Headwater.start({ durable: true, rate: 200 });
});

afterAll(() => headwater.stop());

afterEach(() => {
  for (const client of clients) client.close();
  clients = [];
  relay?.stop();
});

/** Connects through a relay. */
async function through(options: Options = {}): Promise<Client> {
  relay = await Relay.start(headwater.socket);
  return connected(relay.url, options);
}

function connected(url: string, options: Options = {}): Client {
  const client = connect(url, { backoff: { min: 50, max: 500 }, ...options });
  clients.push(client);
  return client;
}

/** Follows topics, and notes every number that arrives and every gap. */
function follow(client: Client, topics: readonly string[] = TOPICS) {
  const seqs = new Map<string, number[]>(topics.map((topic) => [topic, []]));
  const events = new Map<string, unknown>();
  const gaps: Gap[] = [];
  client.on("gap", (gap) => gaps.push(gap));
  for (const topic of topics) {
    client.subscribe(topic, { last: 3 }, ({ seq, event }) => {
      seqs.get(topic)?.push(seq);
      events.set(`${topic} ${seq}`, event);
    });
  }
  /** Waits until every topic has `more` events more than now. */
  const more = async (count: number) => {
    const goals = topics.map((topic) => [topic, (seqs.get(topic)?.length ?? 0) + count] as const);
    await until(() => goals.every(([topic, goal]) => (seqs.get(topic)?.length ?? 0) >= goal));
  };
  return { seqs, events, gaps, more };
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 45_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`it did not come to pass: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Every number from the first to the last, once and in order. */
function expectWhole(seqs: Map<string, number[]>): void {
  for (const [topic, numbers] of seqs) {
    const first = numbers[0] ?? 0;
    const whole = numbers.every((seq, index) => seq === first + index);
    expect(whole, `${topic}: ${JSON.stringify(numbers)}`).toBe(true);
  }
}

describe("the client and the server", () => {
  test("a topic's newest events come first, and then the live ones", async () => {
    const { seqs, gaps, more } = follow(connected(headwater.socket));
    await more(5);
    expectWhole(seqs);
    expect(gaps).toEqual([]);
  });

  test("a link that is cut again and again loses nothing", async () => {
    const { seqs, gaps, more } = follow(await through());
    for (let turn = 0; turn < 5; turn += 1) {
      await more(2);
      relay.cut();
    }
    await more(3);
    expect(relay.accepted).toBeGreaterThan(5);
    expectWhole(seqs);
    expect(gaps).toEqual([]);
  });

  test("messages that come twice are delivered once", async () => {
    const client = await through();
    relay.duplicates = true;
    const { seqs, more } = follow(client);
    await more(8);
    expectWhole(seqs);
  });

  test("messages that do not come are asked for again", async () => {
    const client = await through();
    relay.drops = 3;
    const { seqs, gaps, more } = follow(client);
    await more(12);
    expect(relay.dropped).toBeGreaterThan(3);
    expectWhole(seqs);
    expect(gaps).toEqual([]);
  });

  test("a server that is killed and comes back is caught up with", async () => {
    const { seqs, gaps, more } = follow(connected(headwater.socket));
    await more(3);
    await headwater.kill();
    await headwater.up();
    await more(5);
    expectWhole(seqs);
    expect(gaps).toEqual([]);
  });

  test("a link that is silent is noticed", async () => {
    const client = await through({ keepAlive: 500 });
    const { seqs, more } = follow(client, [TOPICS[0]]);
    await more(1);
    relay.silent = true;
    await until(() => client.state !== "open");
    relay.silent = false;
    await more(2);
    expectWhole(seqs);
  });

  test("connecting anew ahead of the gateway's limit loses nothing and is not seen", async () => {
    const client = await through({ renewBefore: 7_200_000 - 1_000 });
    const states: string[] = [];
    client.on("state", ({ state }) => states.push(state));
    const { seqs, gaps, more } = follow(client);
    await until(() => relay.accepted >= 3);
    await more(3);
    expectWhole(seqs);
    expect(gaps).toEqual([]);
    expect(states).toEqual(["connecting", "open"]);
  });

  test("what a program kept is where another goes on", async () => {
    const topic = TOPICS[1];
    const client = connected(headwater.socket);
    const first = client.subscribe(topic);
    for await (const _ of first) break;
    const seq = first.seq as number;
    client.close();
    for await (const delivery of connected(headwater.socket).subscribe(topic, { since: seq })) {
      expect(delivery.seq).toBe(seq + 1);
      expect(delivery.event.product_id).toBe("BTC-USD");
      break;
    }
  });

  test("a late reader gets the past without another subscription", async () => {
    const client = connected(headwater.socket);
    const { more } = follow(client, [TOPICS[1]]);
    await more(4);
    const late: number[] = [];
    client.subscribe(TOPICS[1], { last: 4 }, ({ seq }) => late.push(seq));
    await until(() => late.length >= 6);
    expectWhole(new Map([["late", late]]));
    expect(await client.list()).toEqual([TOPICS[1]]);
  });

  test("a book starts with a snapshot, for the second reader too", async () => {
    const client = connected(headwater.socket);
    for (let turn = 0; turn < 2; turn += 1) {
      const kinds: string[] = [];
      client.subscribe("coinbase/level2/ETH-USD", {}, ({ event }) => kinds.push(event.type));
      await until(() => kinds.length >= 3);
      expect(kinds[0]).toBe("snapshot");
    }
  });

  test("a pair that does not exist is refused with names that do", async () => {
    const reading = (async () => {
      for await (const _ of connected(headwater.socket).subscribe("coinbase/ticker/BTC-USDD"));
    })();
    await expect(reading).rejects.toThrow(/did you mean .*BTC-USD/);
  });

  test("the other spelling of a topic is the same topic", async () => {
    const rest = new Rest(headwater.url);
    for await (const { topic, seq } of connected(headwater.socket).subscribe("mastodon/lang/EN")) {
      expect(topic).toBe("mastodon/lang/en");
      const { events } = await rest.history("mastodon/lang/EN", { after: seq - 1, limit: 1 });
      expect(events[0]?.seq).toBe(seq);
      break;
    }
  });

  test("a token makes another class, at once and with nothing missed", async () => {
    const guarded = await Headwater.start({ rate: 200, tokens: true });
    let token: string | undefined;
    const client = connected(guarded.socket, { token: () => token });
    // What everybody may see.
    const { seqs, gaps, more } = follow(client, ["coinbase/ticker/BTC-USD", "mastodon/public"]);
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
    expectWhole(seqs);
    expect(gaps).toEqual([]);
    client.close();
    await guarded.stop();
  });

  test("the REST interface starts and stops topics on the connection", async () => {
    const client = connected(headwater.socket);
    const rest = new Rest(headwater.url);
    client.connect();
    await until(() => client.welcome !== undefined);
    const welcome = client.welcome;
    if (!welcome) throw new Error("no welcome");
    const frames: string[] = [];
    client.on("frame", ({ topic }) => frames.push(topic));
    expect(await rest.start("coinbase/ticker/ETH-USD", welcome)).toBe(true);
    expect(await rest.start("coinbase/ticker/ETH-USD", welcome)).toBe(false);
    await until(() => frames.includes("coinbase/ticker/ETH-USD"));
    await rest.stop("coinbase/ticker/ETH-USD", welcome);
    expect(await client.list()).toEqual([]);
    await expect(rest.start("coinbase/ticker/NO-SUCH", welcome)).rejects.toThrow("no pair NO-SUCH");
    expect((await rest.status()).data).toBe("simulated");
    expect(await rest.topics("eth-eur")).toContainEqual(expect.objectContaining({ topic: "coinbase/ticker/ETH-EUR" }));
  });

  test("the way to the server and back is measured", async () => {
    const client = connected(headwater.socket);
    await follow(client).more(1);
    const { roundTrip, clockAhead } = await client.ping();
    expect(roundTrip).toBeGreaterThanOrEqual(0);
    expect(Math.abs(clockAhead)).toBeLessThan(1_000);
  });
});
