import { expect, open, screenshot, test } from "./page.ts";

const TOPIC = "coinbase/matches/BTC-USD";

test("the page catches up without a gap after the server was killed and restarted", async ({ page, restartable }) => {
  // This server writes each frame to disk, which is slow on a busy machine.
  test.slow();
  const diskTimeout = { timeout: 45_000 };
  const seen = new Set<number>();
  page.on("websocket", (socket) =>
    socket.on("framereceived", ({ payload }) => {
      const message = JSON.parse(String(payload));
      for (const { topic, seq, events } of message.frames ?? []) {
        if (topic !== TOPIC) continue;
        for (let index = 0; index < events.length; index += 1) seen.add(seq + index);
      }
    }),
  );
  await page.clock.install();
  await open(page, restartable, "/market/BTC-USD");
  await expect.poll(() => seen.size, diskTimeout).toBeGreaterThan(5);
  const price = page.locator('[data-pair="BTC-USD"] .price');
  await restartable.kill();
  await expect(page.getByText("The connection is lost.")).toBeVisible();
  await expect(price, "the last price stays").toHaveText(/\d/);
  await screenshot(page, "lost");
  const before = Math.max(...seen);
  // With its clock paused, the page does not try again by itself before the click.
  await page.clock.pauseAt(Date.now() + 1_000);
  await expect(page.getByRole("link", { name: "Connection: offline" })).toBeVisible();
  await restartable.launch();
  await page.getByRole("button", { name: "Try now" }).click();
  await page.clock.resume();
  await expect(page.getByText("The connection is lost.")).toBeHidden();
  await expect.poll(() => Math.max(...seen), diskTimeout).toBeGreaterThan(before + 5);
  const [first, last] = [Math.min(...seen), Math.max(...seen)];
  expect(seen.size, "every sequence number from the first to the last").toBe(last - first + 1);
  await page.getByRole("link", { name: "Status" }).click();
  await expect(page.locator(".facts div", { hasText: "Events lost" }).locator("dd")).toHaveText("0");
});

test("a page without a server says so, and connects once there is one", async ({ page, headwater }) => {
  let unreachable = true;
  await page.routeWebSocket(/\/live$/, (socket) => (unreachable ? socket.close() : void socket.connectToServer()));
  await page.goto(`${headwater.url}/`);
  await expect(page.getByText("The server cannot be reached.")).toBeVisible();
  unreachable = false;
  await expect(page.getByRole("link", { name: "Connection: live" })).toBeVisible();
});

test("a hidden page closes its connection and reconnects when it is visible again", async ({ page, headwater }) => {
  await page.clock.install();
  await open(page, headwater);
  const show = (state: "hidden" | "visible") =>
    page.evaluate((value) => {
      Object.defineProperty(document, "visibilityState", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, state);
  await show("hidden");
  await page.clock.fastForward(61_000);
  await expect(page.getByRole("link", { name: "Connection: paused" })).toBeVisible();
  await show("visible");
  await expect(page.getByRole("link", { name: "Connection: live" })).toBeVisible();
});
