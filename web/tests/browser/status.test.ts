import { expect, open, rewriteMessages, screenshot, test } from "./page.ts";

test("the status view shows the sources, the connection and the event rate", async ({ page, headwater }) => {
  await open(page, headwater, "/status");
  await expect(page.getByText("Simulated data.", { exact: false })).toBeVisible();
  const sources = page.getByRole("region", { name: "Sources" });
  await expect(sources.getByText("coinbase", { exact: true })).toBeVisible();
  await expect(sources.getByText(/newest event \d/).first()).toBeVisible();
  const fact = (name: string) =>
    page
      .getByRole("region", { name: "Connection" })
      .locator(".facts div", { has: page.getByText(name, { exact: true }) })
      .locator("dd");
  await expect(fact("State")).toHaveText("open");
  await expect(fact("Class")).toHaveText("anonymous");
  await expect(fact("Events lost")).toHaveText("0");
  const delivery = page.getByRole("region", { name: "Delivery" });
  await expect(delivery.locator(".share", { hasText: "%" }).first()).toBeVisible();
  await expect(page.getByRole("region", { name: "Flow" }).locator("dd").first()).not.toHaveText("0.0");
  await screenshot(page, "status");
});

test("a token changes the class, and an invalid token changes nothing", async ({ page, guarded }) => {
  await open(page, guarded, "/status#sign-in");
  const access = page.getByRole("region", { name: "Access" });
  const chip = page.getByRole("link", { name: /^Class / });
  await access.getByLabel("Token").fill("not.a.token");
  await access.getByRole("button", { name: "Sign in" }).click();
  await expect(access.getByText("The server rejected the token")).toBeVisible();
  await expect(chip).toHaveText("anonymous");
  await access.getByLabel("Token").fill(guarded.token("trader"));
  await access.getByRole("button", { name: "Sign in" }).click();
  await expect(chip).toHaveText("trader");
  await access.getByRole("button", { name: "Check access" }).click();
  await expect(access.getByText("allowed")).toHaveCount(4);
  await access.getByRole("button", { name: "Sign out" }).click();
  await expect(chip).toHaveText("anonymous");
});

test("a topic that is forbidden for a class names the class that may read it", async ({ page, guarded }) => {
  let allowed = false;
  await rewriteMessages(page, (message, reply) => {
    const topics = (message["topics"] ?? []) as string[];
    if (allowed || message["action"] !== "subscribe" || !topics.some((topic) => topic.includes("matches")))
      return message;
    for (const topic of topics) {
      reply({
        type: "error",
        id: message["id"],
        code: "forbidden",
        message: "trades are for class member and above",
        topic,
      });
    }
    return undefined;
  });
  await open(page, guarded, "/market/BTC-USD");
  await expect(page.getByText("Trades require another class.")).toBeVisible();
  await expect(page.getByText("Trades are for class member and above.")).toBeVisible();
  await expect(page.getByText("No trades yet"), "the chart falls back to tickers").toBeHidden();
  await screenshot(page, "forbidden");
  await page.getByRole("link", { name: "Sign in", exact: true }).first().click();
  await expect(page).toHaveURL(/\/status#sign-in$/);
  await expect(page.getByLabel("Token")).toBeInViewport();
  await page.getByRole("button", { name: "Check access" }).click();
  const verdicts = page.getByRole("region", { name: "Access" }).locator(".verdicts");
  await expect(verdicts.getByText("denied").first()).toBeVisible();
  allowed = true;
  await page.getByLabel("Token").fill(guarded.token("trader"));
  await page.getByRole("button", { name: "Sign in" }).click();
  await expect(page.getByRole("link", { name: /^Class trader/ })).toBeVisible();
  await page.getByRole("link", { name: "Market", exact: true }).click();
  await expect(page.getByRole("region", { name: "Trades of BTC-USD" })).toBeVisible();
});
