import { describe, expect, test } from "vitest";
import type { Frame } from "../src/protocol.js";
import { type Gap, Sequence, type Start } from "../src/sequence.js";

const frame = (seq: number, count = 1): Frame => ({
  topic: "t",
  seq,
  at: "2026-11-22T10:00:00.000000Z",
  events: Array.from({ length: count }, (_, index) => seq + index),
});

function follow(start: Start) {
  const got: number[] = [];
  const gaps: Omit<Gap, "topic">[] = [];
  const asked: [number, number][] = [];
  const sequence = new Sequence("t", start, {
    event: (seq, _at, event) => {
      expect(event).toBe(seq);
      got.push(seq);
    },
    gap: ({ from, to, reason }) => gaps.push({ from, to, reason }),
    replay: (from, to) => asked.push([from, to]),
  });
  return { sequence, got, gaps, asked };
}

describe("a sequence", () => {
  test("drops what it has, whole frames and parts of them", () => {
    const { sequence, got, asked } = follow({ kind: "next" });
    sequence.begin(4);
    for (const one of [frame(5, 3), frame(5, 3), frame(6, 4), frame(1, 2), frame(10)]) sequence.offer(one);
    expect(got).toEqual([5, 6, 7, 8, 9, 10]);
    expect(asked).toEqual([]);
  });

  test("asks for a hole once, and keeps what comes after it in order", () => {
    const { sequence, got, gaps, asked } = follow({ kind: "next" });
    sequence.begin(0);
    for (const one of [frame(1), frame(5), frame(4), frame(7)]) sequence.offer(one);
    expect(got).toEqual([1]);
    expect(asked).toEqual([[2, 4]]);
    sequence.offer(frame(2, 2));
    expect(got).toEqual([1, 2, 3, 4, 5]);
    expect(asked).toEqual([
      [2, 4],
      [6, 6],
    ]);
    sequence.offer(frame(6));
    expect(got).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(gaps).toEqual([]);
    expect(sequence.hole).toBeUndefined();
  });

  test("goes on behind events that will not come, and tells of them", () => {
    const { sequence, got, gaps } = follow({ kind: "after", seq: 3 });
    sequence.offer(frame(8));
    sequence.miss(4, 7, "expired");
    expect(got).toEqual([8]);
    expect(gaps).toEqual([{ from: 4, to: 7, reason: "expired" }]);
  });

  test("asks once for what it was too slow for, and believes the second answer", () => {
    const { sequence, got, gaps, asked } = follow({ kind: "next" });
    sequence.begin(0);
    sequence.miss(1, 3, "lagging");
    sequence.offer(frame(4));
    expect(asked).toEqual([[1, 3]]);
    sequence.offer(frame(1));
    sequence.miss(2, 3, "lagging");
    expect(got).toEqual([1, 4]);
    expect(gaps).toEqual([{ from: 2, to: 3, reason: "lagging" }]);
  });

  test("asks three times for a replay that does not come, then goes on", () => {
    const { sequence, got, gaps, asked } = follow({ kind: "next" });
    sequence.begin(0);
    sequence.offer(frame(3));
    for (let turn = 0; turn < 3; turn += 1) sequence.overdue();
    expect(asked).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
    ]);
    expect(gaps).toEqual([{ from: 1, to: 2, reason: "lost" }]);
    expect(got).toEqual([3]);
  });

  test("that starts with the newest events takes fewer without complaint", () => {
    const { sequence, got, gaps, asked } = follow({ kind: "last", count: 10 });
    sequence.begin(100);
    for (const one of [frame(97, 4), frame(101)]) sequence.offer(one);
    expect(got).toEqual([97, 98, 99, 100, 101]);
    expect([gaps, asked]).toEqual([[], []]);
  });

  test("that starts with the newest events is told only of what it was promised", () => {
    const { sequence, got, gaps } = follow({ kind: "last", count: 10 });
    sequence.fetch(100);
    sequence.offer(frame(102));
    sequence.miss(91, 101, "expired");
    expect(got).toEqual([102]);
    expect(gaps).toEqual([{ from: 101, to: 101, reason: "expired" }]);
  });

  test("of a book starts with a snapshot", () => {
    const { sequence, got } = follow({ kind: "next" });
    sequence.begin(1);
    expect(got).toEqual([]);
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

  test("notices that the server's log is another one", () => {
    const { sequence, got, gaps } = follow({ kind: "after", seq: 50 });
    sequence.restart(60);
    expect(gaps).toEqual([]);
    sequence.restart(7);
    sequence.offer(frame(8));
    expect(gaps).toEqual([{ from: 8, to: 50, reason: "restarted" }]);
    expect(got).toEqual([8]);
  });

  test("delivers every event once and in order, whatever happens on the way", () => {
    let state = 7;
    const random = (below: number) => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return Math.floor((state / 2_147_483_648) * below);
    };
    for (let round = 0; round < 300; round += 1) {
      const { sequence, got, gaps, asked } = follow({ kind: "next" });
      sequence.begin(0);
      const frames: Frame[] = [];
      for (let seq = 1; seq <= 60; ) {
        const count = 1 + random(4);
        frames.push(frame(seq, count));
        seq += count;
      }
      const last = frames.at(-1) as Frame;
      for (const one of frames) {
        if (one !== last && random(4) === 0) continue;
        sequence.offer(one);
        if (random(4) === 0) sequence.offer(frames[random(frames.length)] as Frame);
        if (random(3) === 0 && asked.length > 0) answer();
      }
      while (sequence.hole) answer();
      function answer() {
        const [from, to] = asked.shift() ?? [1, 0];
        for (const one of frames) {
          const end = one.seq + one.events.length - 1;
          if (one.seq <= to && end >= from) sequence.offer(one);
        }
      }
      const all = Array.from({ length: last.seq + last.events.length - 1 }, (_, index) => index + 1);
      expect(got, `round ${round}`).toEqual(all);
      expect(gaps).toEqual([]);
    }
  });
});
