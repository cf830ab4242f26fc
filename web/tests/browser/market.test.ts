import { expect, open, screenshot, test } from "./page.ts";

test("prices move, and the history and the order book are shown", async ({ page, headwater }) => {
  await open(page, headwater);
  const price = page.locator('[data-pair="BTC-USD"] .price');
  const before = (await price.textContent()) ?? "";
  expect(before).toMatch(/^[\d,]+\.\d\d$/);
  await expect(price).not.toHaveText(before);
  await expect(page.getByRole("heading", { name: "BTC/USD" })).toBeVisible();
  const ladder = page.getByRole("region", { name: "Book of BTC-USD" });
  await expect(ladder.locator("tbody tr:not(.blank)")).toHaveCount(20);
  await expect(ladder.getByText(/^spread \d/)).toBeVisible();
  const trades = page.getByRole("region", { name: "Trades of BTC-USD" }).locator("tbody tr:not(.blank)");
  await expect(trades).toHaveCount(21);
  await expect(page.getByText("No trades yet")).toBeHidden();
  await screenshot(page, "market");
});

test("a pair is added, stopped, started and removed with the keyboard", async ({ page, headwater }) => {
  let welcome: { connectionId: string; connectionToken: string } | undefined;
  page.on("websocket", (socket) =>
    socket.on("framereceived", ({ payload }) => {
      const message = JSON.parse(String(payload));
      if (message.type === "welcome") welcome = message;
    }),
  );
  await open(page, headwater);
  /** Returns the topics that the page's connection is subscribed to, according to the server. */
  const subscribed = async (): Promise<string[]> => {
    const headers = {
      "x-connection-id": welcome?.connectionId ?? "",
      "x-connection-token": welcome?.connectionToken ?? "",
    };
    const response = await fetch(`${headwater.url}/api/v1/subscribe`, { headers });
    return ((await response.json()) as { topics: string[] }).topics;
  };
  const search = page.getByRole("combobox", { name: "Add a pair" });
  await search.focus();
  await page.keyboard.type("eth/e");
  await expect(page.getByRole("option")).toHaveCount(1);
  await page.keyboard.press("Enter");
  const tile = page.locator('[data-pair="ETH-EUR"]');
  await expect(tile.locator(".price")).toHaveText(/\d/);
  await expect(page).toHaveURL(/\/market\/ETH-EUR$/);
  await expect(page.getByRole("heading", { name: "ETH/EUR" })).toBeVisible();
  await expect.poll(subscribed).toContain("coinbase/ticker/ETH-EUR");

  await page.getByRole("button", { name: "Stop ETH-EUR" }).focus();
  await page.keyboard.press("Enter");
  await expect(tile.getByText("stopped")).toBeVisible();
  await expect.poll(subscribed).not.toContain("coinbase/ticker/ETH-EUR");
  await page.keyboard.press("Enter");
  await expect.poll(subscribed).toContain("coinbase/ticker/ETH-EUR");

  await page.getByRole("button", { name: "Remove ETH-EUR" }).click();
  await expect(tile).toHaveCount(0);
  await expect.poll(subscribed).not.toContain("coinbase/ticker/ETH-EUR");
});

test("the pairs survive a reload and can be linked to", async ({ page, headwater }) => {
  await open(page, headwater, "/market/LTC-USD");
  await page.getByRole("button", { name: "Add LTC-USD" }).click();
  await expect(page.locator('[data-pair="LTC-USD"] .price')).toHaveText(/\d/);
  await page.reload();
  await expect(page.locator('[data-pair="LTC-USD"] .price')).toHaveText(/\d/);
  await open(page, headwater, "/?pairs=XRP-USD,ADA-USD");
  await expect(page.locator(".tile")).toHaveCount(2);
  await expect(page.locator('[data-pair="XRP-USD"] .price')).toHaveText(/\d/);
});

test("an unknown pair is rejected with a reason", async ({ page, headwater }) => {
  await open(page, headwater);
  const search = page.getByRole("combobox", { name: "Add a pair" });
  await search.fill("BTC-USDD");
  await expect(page.getByText("No pair of the exchange matches")).toBeVisible();
  await search.press("Enter");
  await expect(page.getByText(/did you mean .*BTC-USD/).first()).toBeVisible();
});

test("the interval of the candles can be chosen", async ({ page, headwater }) => {
  await open(page, headwater);
  await page.getByLabel("One minute").check();
  await expect(page.getByLabel("One minute")).toBeChecked();
  await expect(page.locator(".chart canvas").first()).toBeVisible();
});
