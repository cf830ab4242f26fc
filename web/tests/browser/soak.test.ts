import { HeadwaterServer } from "../harness/headwater.ts";
import { expect, open, test } from "./page.ts";

/** How long the page runs, in seconds. */
const SECONDS = Number(process.env["SOAK_SECONDS"] ?? 0);

/** How often the heap is measured, in seconds. */
const EVERY = Math.max(5, Math.round(SECONDS / 30));

/** The least number of events a second that the page must receive. */
const MIN_EVENTS_PER_SECOND = 200;

/** The least number of frames a second that 95% of the seconds must reach. */
const MIN_FRAMES_PER_SECOND = 50;

/** The most bytes that the heap may grow by between the first and the last third of the run. */
const MAX_GROWTH = 8 * 1024 * 1024;

// Tracing takes screenshots, which would distort the measurement.
test.use({ trace: "off" });

test("memory and frame rate stay within bounds under load @soak", async ({ page }) => {
  test.setTimeout((SECONDS + 120) * 1_000);
  const headwater = await HeadwaterServer.start({ rate: Number(process.env["SOAK_RATE"] ?? 420) });
  let events = 0;
  page.on("websocket", (socket) =>
    socket.on("framereceived", ({ payload }) => {
      for (const frame of JSON.parse(String(payload)).frames ?? []) events += frame.events.length;
    }),
  );
  await page.addInitScript(() => {
    const frames: number[] = [];
    let count = 0;
    Object.assign(window, { frames });
    const tick = () => {
      count += 1;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    let last = performance.now();
    setInterval(() => {
      const now = performance.now();
      frames.push((count * 1_000) / (now - last));
      count = 0;
      last = now;
    }, 1_000);
  });
  await open(page, headwater, process.env["SOAK_PATH"] ?? "/");
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  const heaps: number[] = [];
  const rates: number[] = [];
  const started = Date.now();
  while (Date.now() - started < SECONDS * 1_000) {
    const [before, from] = [events, Date.now()];
    await page.waitForTimeout(EVERY * 1_000);
    const rate = ((events - before) * 1_000) / (Date.now() - from);
    rates.push(rate);
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    heaps.push(usedSize);
    const elements = await page.evaluate(() => document.querySelectorAll("*").length);
    const second = Math.round((Date.now() - started) / 1_000);
    console.log(
      `${second} s: ${(usedSize / 2 ** 20).toFixed(1)} MiB, ${elements} elements, ${rate.toFixed(0)} events/s`,
    );
  }
  const { metrics } = await session.send("Performance.getMetrics");
  const durations = metrics
    .filter(({ name }) => name.endsWith("Duration"))
    .map(({ name, value }) => `${name} ${value.toFixed(1)} s`);
  console.log(durations.join(", "));
  const frames = await page.evaluate(() => (window as unknown as { frames: number[] }).frames.slice(5));
  await headwater.stop();
  const sorted = [...frames].sort((a, b) => a - b);
  const slowest = sorted[Math.floor(sorted.length * 0.05)] ?? 0;
  const third = Math.max(1, Math.floor(heaps.length / 3));
  const mean = (values: number[]) => values.reduce((sum, one) => sum + one, 0) / values.length;
  const growth = mean(heaps.slice(-third)) - mean(heaps.slice(0, third));
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  console.log(
    `frames a second: median ${median.toFixed(1)}, 95% above ${slowest.toFixed(1)}; heap grew by ${(growth / 2 ** 20).toFixed(2)} MiB; ${mean(rates).toFixed(0)} events/s`,
  );
  expect(mean(rates)).toBeGreaterThanOrEqual(MIN_EVENTS_PER_SECOND);
  expect(growth).toBeLessThan(MAX_GROWTH);
  expect(slowest).toBeGreaterThanOrEqual(MIN_FRAMES_PER_SECOND);
});
