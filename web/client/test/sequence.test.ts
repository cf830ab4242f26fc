import { describe, expect, test } from "vitest";
import type { Frame } from "../src/protocol.js";
import { type Gap, Sequence, type Start } from "../src/sequence.js";

const frame = (seq: number, count = 1): Frame => ({
  topic: "t",
  seq,
  at: "2026-11-22T10:00:00.000000Z",
  events: Array.from({ length: count }, (_, index) => seq + index),
});

function record(start: Start) {
  const delivered: number[] = [];
  const gaps: Omit<Gap, "topic">[] = [];
  const replays: [number, number][] = [];
  const sequence = new Sequence("t", start, {
    event: (seq, _at, event) => {
      expect(event).toBe(seq);
      delivered.push(seq);
    },
    gap: ({ from, to, reason }) => gaps.push({ from, to, reason }),
    replay: (from, to) => replays.push([from, to]),
  });
  return { sequence, delivered, gaps, replays };
}

describe("a sequence", () => {
  test("drops duplicates, in whole frames and in parts of frames", () => {
    const { sequence, delivered, replays } = record({ kind: "next" });
    sequence.begin(4);
    for (const received of [frame(5, 3), frame(5, 3), frame(6, 4), frame(1, 2), frame(10)]) sequence.offer(received);
    expect(delivered).toEqual([5, 6, 7, 8, 9, 10]);
    expect(replays).toEqual([]);
  });

  test("requests a hole once and delivers the later events in order", () => {
    const { sequence, delivered, gaps, replays } = record({ kind: "next" });
    sequence.begin(0);
    for (const received of [frame(1), frame(5), frame(4), frame(7)]) sequence.offer(received);
    expect(delivered).toEqual([1]);
    expect(replays).toEqual([[2, 4]]);
    sequence.offer(frame(2, 2));
    expect(delivered).toEqual([1, 2, 3, 4, 5]);
    expect(replays).toEqual([
      [2, 4],
      [6, 6],
    ]);
    sequence.offer(frame(6));
    expect(delivered).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(gaps).toEqual([]);
    expect(sequence.hole).toBeUndefined();
  });

  test("continues after events that the server will not send, and reports a gap", () => {
    const { sequence, delivered, gaps } = record({ kind: "after", seq: 3 });
    sequence.offer(frame(8));
    sequence.skip(4, 7, "expired");
    expect(delivered).toEqual([8]);
    expect(gaps).toEqual([{ from: 4, to: 7, reason: "expired" }]);
  });

  test("requests lagging events once, and accepts the second gap", () => {
    const { sequence, delivered, gaps, replays } = record({ kind: "next" });
    sequence.begin(0);
    sequence.skip(1, 3, "lagging");
    sequence.offer(frame(4));
    expect(replays).toEqual([[1, 3]]);
    sequence.offer(frame(1));
    sequence.skip(2, 3, "lagging");
    expect(delivered).toEqual([1, 4]);
    expect(gaps).toEqual([{ from: 2, to: 3, reason: "lagging" }]);
  });

  test("requests a missing replay three times, then continues", () => {
    const { sequence, delivered, gaps, replays } = record({ kind: "next" });
    sequence.begin(0);
    sequence.offer(frame(3));
    for (let turn = 0; turn < 3; turn += 1) sequence.replayOverdue();
    expect(replays).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
    ]);
    expect(gaps).toEqual([{ from: 1, to: 2, reason: "lost" }]);
    expect(delivered).toEqual([3]);
  });

  test("that starts with the newest events accepts fewer of them", () => {
    const { sequence, delivered, gaps, replays } = record({ kind: "last", count: 10 });
    sequence.begin(100);
    for (const received of [frame(97, 4), frame(101)]) sequence.offer(received);
    expect(delivered).toEqual([97, 98, 99, 100, 101]);
    expect([gaps, replays]).toEqual([[], []]);
  });

  test("that starts with the newest events reports only later events as a gap", () => {
    const { sequence, delivered, gaps } = record({ kind: "last", count: 10 });
    sequence.fetch(100);
    sequence.offer(frame(102));
    sequence.skip(91, 101, "expired");
    expect(delivered).toEqual([102]);
    expect(gaps).toEqual([{ from: 101, to: 101, reason: "expired" }]);
  });

  test("of an order book starts with a snapshot", () => {
    const { sequence, delivered } = record({ kind: "next" });
    sequence.begin(1);
    expect(delivered).toEqual([]);
    const events: unknown[] = [];
    const book = new Sequence(
      "coinbase/level2/BTC-USD",
      { kind: "snapshot" },
      { event: (seq) => events.push(seq), gap: () => {}, replay: () => {} },
    );
    book.begin(7);
    book.offer({ topic: "", seq: 6, at: "", events: [{ type: "l2update" }] });
    book.offer({
      topic: "",
      seq: 7,
      at: "",
      events: [{ type: "l2update" }, { type: "snapshot" }, { type: "l2update" }],
    });
    expect(events).toEqual([8, 9]);
  });

  test("forgets its numbers in another log, which can be behind or ahead", () => {
    const cases = [
      { head: 7, gap: { from: 1, to: 7, reason: "reset" } },
      { head: 50, gap: { from: 1, to: 50, reason: "reset" } },
      { head: 60, gap: { from: 51, to: 60, reason: "reset" } },
      { head: 0, gap: { from: 0, to: 0, reason: "reset" } },
    ];
    for (const { head, gap } of cases) {
      const { sequence, delivered, gaps, replays } = record({ kind: "after", seq: 50 });
      sequence.offer(frame(53));
      sequence.reset(head);
      sequence.offer(frame(head + 1));
      expect(gaps, `head ${head}`).toEqual([gap]);
      expect(delivered, `head ${head}`).toEqual([head + 1]);
      expect(replays, `head ${head}`).toEqual([[51, 52]]);
      expect(sequence.hole, `head ${head}`).toBeUndefined();
    }
  });

  test("of an order book waits for a snapshot of another log", () => {
    const events: number[] = [];
    const book = new Sequence(
      "coinbase/level2/BTC-USD",
      { kind: "snapshot" },
      { event: (seq) => events.push(seq), gap: () => {}, replay: () => {} },
    );
    book.offer({ topic: "", seq: 7, at: "", events: [{ type: "snapshot" }] });
    book.reset(100);
    expect(book.seq).toBeUndefined();
    book.offer({ topic: "", seq: 101, at: "", events: [{ type: "l2update" }, { type: "snapshot" }] });
    expect(events).toEqual([7, 102]);
  });

  test("knows whether it lacks events that nobody has requested", () => {
    const { sequence } = record({ kind: "next" });
    expect(sequence.lacks(5)).toBe(false);
    sequence.begin(4);
    expect([sequence.lacks(4), sequence.lacks(5)]).toEqual([false, true]);
    sequence.fetch(5);
    expect(sequence.lacks(5)).toBe(false);
  });

  test("delivers every event once and in order, despite random losses and duplicates", () => {
    let state = 7;
    const random = (below: number) => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return Math.floor((state / 2_147_483_648) * below);
    };
    for (let round = 0; round < 300; round += 1) {
      const { sequence, delivered, gaps, replays } = record({ kind: "next" });
      sequence.begin(0);
      const frames: Frame[] = [];
      for (let seq = 1; seq <= 60; ) {
        const count = 1 + random(4);
        frames.push(frame(seq, count));
        seq += count;
      }
      const last = frames.at(-1) as Frame;
      for (const received of frames) {
        if (received !== last && random(4) === 0) continue;
        sequence.offer(received);
        if (random(4) === 0) sequence.offer(frames[random(frames.length)] as Frame);
        if (random(3) === 0 && replays.length > 0) replay();
      }
      while (sequence.hole) replay();
      function replay() {
        const [from, to] = replays.shift() ?? [1, 0];
        for (const received of frames) {
          const end = received.seq + received.events.length - 1;
          if (received.seq <= to && end >= from) sequence.offer(received);
        }
      }
      const all = Array.from({ length: last.seq + last.events.length - 1 }, (_, index) => index + 1);
      expect(delivered, `round ${round}`).toEqual(all);
      expect(gaps).toEqual([]);
    }
  });
});
