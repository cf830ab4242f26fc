import { expect, open, shoot, test } from "./page.ts";

const TOPIC = "coinbase/matches/BTC-USD";

test("the server dies and comes back, and the page catches up without a gap", async ({ page, elsewhere }) => {
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
  await open(page, elsewhere, "/market/BTC-USD");
  await expect.poll(() => seen.size).toBeGreaterThan(10);
  const price = page.locator('[data-pair="BTC-USD"] .price');
  await elsewhere.kill();
  await expect(page.getByText("The connection is lost.")).toBeVisible();
  await expect(price, "what is known stays").toHaveText(/\d/);
  await shoot(page, "lost");
  const before = Math.max(...seen);
  await elsewhere.up();
  await page
    .getByRole("button", { name: "Try now" })
    .click({ timeout: 5_000 })
    .catch(() => {});
  await expect(page.getByText("The connection is lost.")).toBeHidden({ timeout: 40_000 });
  await expect.poll(() => Math.max(...seen), { timeout: 40_000 }).toBeGreaterThan(before + 10);
  const [first, last] = [Math.min(...seen), Math.max(...seen)];
  expect(seen.size, "every number from the first to the last").toBe(last - first + 1);
  await page.getByRole("link", { name: "Status" }).click();
  await expect(page.locator(".facts div", { hasText: "Events lost" }).locator("dd")).toHaveText("0");
});

test("a page without a server says so, and lives when there is one", async ({ page, elsewhere }) => {
  let away = true;
  await page.routeWebSocket(/\/live$/, (socket) => (away ? socket.close() : void socket.connectToServer()));
  await page.goto(`${elsewhere.url}/`);
  await expect(page.getByText("The server cannot be reached.")).toBeVisible();
  away = false;
  await expect(page.getByRole("link", { name: "Connection: live" })).toBeVisible();
});

test("a hidden page gives its connection up, and resumes", async ({ page, headwater }) => {
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
