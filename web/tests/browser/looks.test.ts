import { copyFileSync } from "node:fs";
import AxeBuilder from "@axe-core/playwright";
import type { Page } from "@playwright/test";
import { expect, OUTPUT, open, rewriteMessages, rewritePosts, screenshot, test } from "./page.ts";

/** The views, and the elements of each that appear last. */
const VIEWS = [
  {
    name: "market",
    path: "/",
    loaded: [
      ".asks tr:not(.blank)",
      ".trades tr:not(.blank) time",
      ".tile .spark .line",
      ".big .change.up, .big .change.down",
    ],
  },
  {
    name: "posts",
    path: "/posts?c=public&c=lang/en",
    loaded: ['[data-topic="mastodon/public"] article', '[data-topic="mastodon/lang/en"] article'],
  },
  {
    name: "status",
    path: "/status",
    loaded: [".sources .dot", ".share:not(:empty)", ".verdicts li"],
  },
] as const;

const WIDTHS = [
  { name: "desktop", viewport: { width: 1440, height: 900 } },
  { name: "phone", viewport: { width: 390, height: 844 } },
];

for (const colorScheme of ["light", "dark"] as const) {
  for (const { name: width, viewport } of WIDTHS) {
    for (const view of VIEWS) {
      test(`no serious accessibility violation: ${view.name}, ${width}, ${colorScheme}`, async ({
        page,
        headwater,
      }) => {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize(viewport);
        await open(page, headwater, view.path);
        for (const loaded of view.loaded) await expect(page.locator(loaded).first()).toBeVisible();
        await screenshot(page, `${view.name}-${width}-${colorScheme}`);
        const { violations } = await new AxeBuilder({ page }).analyze();
        const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
        const described = serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join("\n  ")}`);
        expect(described).toEqual([]);
      });
    }
  }
}

test("no view scrolls sideways on a phone", async ({ page, headwater }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  for (const view of VIEWS) {
    await open(page, headwater, view.path);
    for (const loaded of view.loaded) await expect(page.locator(loaded).first()).toBeVisible();
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow, view.name).toBeLessThanOrEqual(0);
    await expect(page.getByRole("navigation", { name: "Views" })).toBeInViewport();
  }
});

test("the theme follows the system until the reader chooses one", async ({ page, headwater }) => {
  await page.emulateMedia({ colorScheme: "dark" });
  await open(page, headwater);
  expect(await lightness(page)).toBeLessThan(60);
  await page.getByRole("button", { name: "Show in light colors" }).click();
  expect(await lightness(page)).toBeGreaterThan(200);
  await page.reload();
  await expect(page.getByRole("button", { name: "Show in dark colors" })).toBeVisible();
  expect(await lightness(page)).toBeGreaterThan(200);
});

/** Returns the lightness of the page's background, from 0 to 255. */
function lightness(page: Page): Promise<number> {
  return page.evaluate(() => {
    const [red = 0, green = 0, blue = 0] =
      getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g)?.map(Number) ?? [];
    return (red + green + blue) / 3;
  });
}

test("the keyboard reaches every control and the focus is visible", async ({ page, headwater }) => {
  await open(page, headwater);
  await expect(page.locator('[data-pair="BTC-USD"] .price')).toHaveText(/\d/);
  const names: string[] = [];
  for (let step = 0; step < 30; step += 1) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body) return undefined;
      const outlined = getComputedStyle(element).outlineStyle !== "none" || element.matches(".segments input");
      return { name: element.getAttribute("aria-label") ?? element.textContent?.trim() ?? "", outlined };
    });
    if (!focused) break;
    expect(focused.outlined, `the focus on “${focused.name}” is visible`).toBe(true);
    names.push(focused.name);
  }
  expect(names[0]).toBe("Skip to the content");
  for (const name of ["Market", "Posts", "Status", "Add a pair", "Stop BTC-USD", "Remove BTC-USD"]) {
    expect(names.join("|")).toContain(name);
  }
  await page.keyboard.press("Escape");
  await page.goto(`${headwater.url}/`);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  expect(await page.evaluate(() => document.activeElement?.id)).toBe("main");
});

/** A movement of the page: when it happened, in milliseconds, and the part of the page that moved. */
type Shift = { at: number; value: number; elements: string };

/**
 * The sum of the worst session window: shifts less than a second apart, within at most five seconds.
 * Prices that change move a little text for as long as the page is open. After
 * <https://web.dev/articles/cls>.
 */
function cumulativeLayoutShift(shifts: Shift[]): number {
  let [worst, sum, first, last] = [0, 0, -Infinity, -Infinity];
  for (const { at, value } of shifts) {
    const isSameWindow = at - last < 1_000 && at - first < 5_000;
    if (!isSameWindow) [sum, first] = [0, at];
    sum += value;
    last = at;
    worst = Math.max(worst, sum);
  }
  return worst;
}

/** Records the layout shifts of the page, except those that follow an input. */
function recordShifts(): void {
  type LayoutShift = PerformanceEntry & { value: number; hadRecentInput: boolean; sources?: { node?: Node }[] };
  const shifts: Shift[] = [];
  Object.assign(window, { shifts });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries() as LayoutShift[]) {
      if (entry.hadRecentInput) continue;
      const elements = entry.sources?.map(({ node }) =>
        node instanceof Element ? `${node.tagName}.${node.getAttribute("class")}` : "text",
      );
      shifts.push({ at: entry.startTime, value: entry.value, elements: elements?.join(", ") ?? "" });
    }
  }).observe({ type: "layout-shift", buffered: true });
}

for (const view of VIEWS) {
  for (const { name: width, viewport } of WIDTHS) {
    test(`nothing moves while the view loads: ${view.name}, ${width}`, async ({ page, headwater }) => {
      await page.setViewportSize(viewport);
      await page.addInitScript(recordShifts);
      /** Resolves when the page has painted what it has. */
      const painted = () =>
        page.evaluate(
          () => new Promise<void>((done) => requestAnimationFrame(() => requestAnimationFrame(() => done()))),
        );
      // Each answer of the server is held back until the page has been painted without it.
      await page.route("**/api/v1/**", async (route) => {
        await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
        await painted();
        await route.continue();
      });
      // An edited post may move what is below it.
      await rewriteMessages(
        page,
        rewritePosts((post) => post),
      );
      await open(page, headwater, view.path);
      for (const loaded of view.loaded) await expect(page.locator(loaded).first()).toBeVisible();
      await expect(page.getByRole("link", { name: /^Connection/ })).toContainText(/live/);
      await expect(page.locator(".data-banner strong")).toBeVisible();
      await painted();
      const shifts = await page.evaluate(() => (window as unknown as { shifts: Shift[] }).shifts);
      expect(cumulativeLayoutShift(shifts), JSON.stringify(shifts)).toBeLessThan(0.02);
    });
  }
}

test("every view has an address, and an unknown address says so", async ({ page, headwater }) => {
  await open(page, headwater, "/market/ETH-USD");
  await expect(page.getByRole("heading", { name: "ETH/USD" })).toBeVisible();
  await expect(page).toHaveTitle("ETH-USD · Market · Headwater");
  await page.getByRole("link", { name: "Posts" }).click();
  await expect(page).toHaveTitle("Posts · Headwater");
  await page.goBack();
  await expect(page.getByRole("heading", { name: "ETH/USD" })).toBeVisible();
  await page.goto(`${headwater.url}/nowhere`);
  await expect(page.getByText("Page not found")).toBeVisible();
});

test("the screenshot of the README @picture", async ({ page, headwater }) => {
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.emulateMedia({ colorScheme: "light" });
  await open(page, headwater, "/?pairs=BTC-USD,ETH-USD,SOL-USD,DOGE-USD,XRP-USD,ADA-USD,LTC-USD");
  await page.getByLabel("One second").check();
  await expect(page.locator('.tile:not([data-pair="BTC-USD"]) .change.up, .tile .change.down').first()).toBeVisible();
  await expect(page.locator(".ladder tbody tr:not(.blank)").nth(30)).toBeVisible();
  // The chart needs some seconds of trades to look like a chart.
  await page.waitForFunction(() => performance.now() > 6_000);
  await screenshot(page, "page");
  copyFileSync(`${OUTPUT}page.png`, new URL("../../../docs/page.png", import.meta.url));
});
