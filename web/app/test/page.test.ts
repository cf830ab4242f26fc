import type { Post, PostEvent } from "headwater-client";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { age, amount, decimalsOf, duration, fixed, percent } from "../src/format";
import { extend, Trades } from "../src/market/candles";
import { OrderBook } from "../src/market/order-book";
import { split } from "../src/posts/emoji";
import { PostList } from "../src/posts/post-list";
import { Meter } from "../src/status/meter";

describe("an order book", () => {
  test("applies a snapshot and later changes", () => {
    const book = new OrderBook();
    book.apply({
      type: "snapshot",
      product_id: "A-B",
      bids: [
        ["9.50", "1"],
        ["9.00", "2"],
      ],
      asks: [["10.00", "3"]],
    });
    book.apply({
      type: "l2update",
      product_id: "A-B",
      time: "",
      changes: [
        ["buy", "9.5", "0"],
        ["buy", "9.25", "4"],
        ["sell", "9.9", "1"],
      ],
    });
    const { bids, asks, depth } = book.best(10);
    expect(bids.map(({ price, size, total }) => [price, size, total])).toEqual([
      ["9.25", 4, 4],
      ["9", 2, 6],
    ]);
    expect(asks.map(({ price, total }) => [price, total])).toEqual([
      ["9.9", 1],
      ["10", 4],
    ]);
    expect(depth).toBe(6);
    book.apply({ type: "snapshot", product_id: "A-B", bids: [], asks: [["11", "1"]] });
    expect(book.best(10).asks).toHaveLength(1);
  });

  test("limits the number of levels", () => {
    const book = new OrderBook();
    for (let level = 1; level < 5_000; level += 1) {
      book.apply({ type: "l2update", product_id: "A-B", time: "", changes: [["buy", String(level), "1"]] });
    }
    const { bids } = book.best(10_000);
    expect(bids.length).toBeLessThanOrEqual(600);
    expect(bids[0]?.price).toBe("4999");
  });
});

describe("candles", () => {
  const trade = (id: number, time: number, price: number) => ({ id, time, price, size: 1 });

  test("aggregate trades", () => {
    const first = extend(undefined, trade(1, 61, 5), 60);
    expect(first).toEqual({ time: 60, open: 5, high: 5, low: 5, close: 5, volume: 1 });
    expect(extend(first, trade(2, 119, 3), 60)).toEqual({ time: 60, open: 5, high: 5, low: 3, close: 3, volume: 2 });
    expect(extend(first, trade(3, 120, 3), 60).time).toBe(120);
  });

  test("report only what has changed since the last drawing", () => {
    const trades = new Trades(10);
    for (const item of [trade(1, 0, 1), trade(2, 10, 2), trade(3, 20, 3)]) trades.add(item);
    expect(trades.draw()).toMatchObject({ all: true, candles: [{ time: 0 }, { time: 10 }, { time: 20 }] });
    trades.add(trade(4, 25, 4));
    trades.add(trade(5, 30, 5));
    expect(trades.draw()).toMatchObject({ all: false, candles: [{ time: 20, close: 4 }, { time: 30 }] });
    expect(trades.draw().candles).toEqual([]);
  });

  test("do not depend on the order of the trades, and count each trade once", () => {
    const ordered = new Trades(10);
    const mixed = new Trades(10);
    const all = Array.from({ length: 50 }, (_, index) => trade(index, index * 3, (index * 7) % 11));
    for (const item of all) ordered.add(item);
    for (const item of [...all.slice(20), ...all.slice(25, 30)]) mixed.add(item);
    mixed.prepend(all.slice(0, 24));
    expect(mixed.draw().candles).toEqual(ordered.draw().candles);
    const late = new Trades(10);
    for (const item of [...all.filter(({ id }) => id !== 13), ...all]) late.add(item);
    ordered.regroup(10);
    expect(late.draw().candles).toEqual(ordered.draw().candles);
  });
});

describe("a list of posts", () => {
  beforeEach(() => {
    vi.useFakeTimers();
    vi.stubGlobal("requestAnimationFrame", (run: () => void) => setTimeout(run, 16));
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });
  const post = (id: string, text = id) => ({ type: "post", id, text }) as Post;
  const ids = (list: PostList) => list.posts.value.map(({ id }) => id);
  const deletion = (id: string): PostEvent => ({ type: "post.deleted", id, server: "", at: "" });

  test("shows the newest posts first, each once", async () => {
    const list = new PostList();
    for (const id of ["a", "b", "a", "c"]) list.apply(post(id));
    await vi.advanceTimersByTimeAsync(1_000);
    list.apply(post("b"));
    await vi.advanceTimersByTimeAsync(1_000);
    expect(ids(list)).toEqual(["c", "b", "a"]);
  });

  test("does not change while it is paused, and counts the pending posts", async () => {
    const list = new PostList();
    list.apply(post("a"));
    await vi.advanceTimersByTimeAsync(1_000);
    list.hold(true);
    for (const id of ["b", "c", "d"]) list.apply(post(id));
    await vi.advanceTimersByTimeAsync(1_000);
    expect([ids(list), list.pending.value]).toEqual([["a"], 3]);
    list.apply(deletion("c"));
    list.apply({ ...post("a", "changed"), type: "post.edited" });
    expect(list.pending.value).toBe(2);
    expect(list.posts.value[0]?.text).toBe("changed");
    list.apply(deletion("a"));
    expect(ids(list), "a deleted post is removed immediately, even while paused").toEqual([]);
    list.hold(false);
    expect([ids(list), list.pending.value]).toEqual([["d", "b"], 0]);
  });

  test("drops the oldest posts", async () => {
    const list = new PostList();
    for (let turn = 0; turn < 10; turn += 1) {
      for (let index = 0; index < 200; index += 1) list.apply(post(`${turn}-${index}`));
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(list.posts.value).toHaveLength(600);
    list.hold(true);
    for (let index = 0; index < 1_000; index += 1) list.apply(post(`w${index}`));
    expect(list.pending.value).toBe(1_000);
    list.hold(false);
    expect(ids(list)[0]).toBe("w999");
    expect(list.posts.value).toHaveLength(600);
  });
});

test("known emoji with a safe URL are replaced", () => {
  const wave = { shortcode: "wave", url: "https://files.example/wave.png" };
  const bad = { shortcode: "bad", url: "javascript:alert(1)" };
  const cases: [string, unknown[]][] = [
    ["hello :wave:!", ["hello ", wave, "!"]],
    [":wave::wave:", [wave, wave]],
    [":bad: at 10:30:45", [":bad:", " at 10", ":30:", "45"]],
    ["none", ["none"]],
  ];
  for (const [text, expected] of cases) expect(split(text, [wave, bad]), text).toEqual(expected);
});

test("the meter counts the delays of live events, but not of history", () => {
  const meter = new Meter();
  const at = (ms: number) => `${new Date(ms).toISOString().slice(0, -1)}000Z`;
  const now = performance.timeOrigin + performance.now();
  meter.frame({ topic: "t", seq: 1, at: at(now - 30), events: [1, 2] });
  meter.expectBacklog();
  meter.frame({ topic: "t", seq: 3, at: at(now - 5_000), events: [3] });
  meter.message({ events: 3, size: 100 });
  meter.second();
  expect(meter.histogram.value.reduce((sum, count) => sum + count, 0)).toBe(2);
  expect(meter.histogram.value[5]).toBe(2);
  expect(meter.total.value).toEqual({ events: 3, messages: 1, characters: 100 });
  expect(meter.seconds.value.at(-1)).toEqual({ events: 3, messages: 1 });
});

test("numbers and times are formatted", () => {
  expect(fixed(64230.1, 2)).toBe("64,230.10");
  expect(percent(0.0125)).toBe("+1.25%");
  expect(percent(-0.5)).toBe("-50.00%");
  expect(decimalsOf("0.00001342")).toBe(8);
  expect(amount("0.000256200")).toBe("0.0002562");
  expect([0, 850, 12_000, 180_000, 7_200_000, 200_000_000].map(duration)).toEqual([
    "0 ms",
    "850 ms",
    "12 s",
    "3 min",
    "2 h",
    "2 d",
  ]);
  const now = Date.parse("2026-11-22T10:00:00Z");
  expect(["2026-11-22T09:59:58Z", "2026-11-22T09:58:58Z", "2026-11-20T10:00:00Z"].map((at) => age(at, now))).toEqual([
    "now",
    "1m",
    "2d",
  ]);
});
