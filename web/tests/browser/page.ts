/** The page in a browser, in front of a real server, and watched for what no test of it may see. */

import { createHash } from "node:crypto";
import { test as base, expect, type Page, type WebSocketRoute } from "@playwright/test";
import { Headwater } from "../harness/headwater.ts";

/** Where pictures are kept. */
export const OUTPUT = new URL("../output/", import.meta.url).pathname;

type Json = Record<string, unknown>;

/** Changes what a server says on the way to the page. */
export type Rewrite = (message: Json, socket: { say(message: Json): void }) => Json | undefined;

export const test = base.extend<
  { watched: { violations: string[] } },
  { headwater: Headwater; elsewhere: Headwater; guarded: Headwater }
>({
  // One server for all tests that leave it as it was.
  headwater: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
    async ({}, use) => {
      const headwater = await Headwater.start({ rate: 60 });
      await use(headwater);
      await headwater.stop();
    },
    { scope: "worker" },
  ],
  // One whose log outlives it, for tests that kill it.
  elsewhere: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
    async ({}, use) => {
      const headwater = await Headwater.start({ rate: 60, durable: true });
      await use(headwater);
      await headwater.stop();
    },
    { scope: "worker" },
  ],
  // One that takes tokens.
  guarded: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
    async ({}, use) => {
      const headwater = await Headwater.start({ rate: 60, tokens: true });
      await use(headwater);
      await headwater.stop();
    },
    { scope: "worker" },
  ],
  watched: [
    async ({ page }, use) => {
      const violations: string[] = [];
      page.on("pageerror", (error) => violations.push(`uncaught: ${error.message}`));
      page.on("dialog", async (dialog) => {
        violations.push(`a dialog: ${dialog.message()}`);
        await dialog.dismiss();
      });
      page.on("console", (message) => {
        if (/Content Security Policy|Trusted ?Type/i.test(message.text())) violations.push(message.text());
      });
      await page.route(/^https:/, (route) => {
        if (route.request().resourceType() !== "image") return route.abort();
        return route.fulfill({ contentType: "image/svg+xml", body: picture(route.request().url()) });
      });
      await use({ violations });
      expect(violations).toEqual([]);
    },
    { auto: true },
  ],
});

export { expect };

/** A made-up picture, the same for the same address. */
function picture(url: string): string {
  const [a = 0, b = 0, c = 0] = createHash("sha256").update(url).digest();
  const colour = (hue: number, light: number) => `hsl(${Math.round(160 + (hue / 255) * 130)} 42% ${light}%)`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="640" height="480" viewBox="0 0 640 480" preserveAspectRatio="none">
    <defs><linearGradient id="sky" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="${colour(a, 78)}"/><stop offset="1" stop-color="${colour(b, 90)}"/></linearGradient></defs>
    <rect width="640" height="480" fill="url(#sky)"/><circle cx="${120 + c}" cy="130" r="52" fill="#fff" opacity=".75"/>
    <path d="M0 ${300 + b / 4} C160 ${210 + a / 4} 300 ${330 - c / 5} 640 ${240 + a / 5} V480 H0Z" fill="${colour(c, 58)}"/>
    <path d="M0 ${390 - a / 6} C220 ${330 + c / 6} 420 ${430 - b / 5} 640 ${350 + b / 6} V480 H0Z" fill="${colour(a, 40)}"/></svg>`;
}

/** Opens an address of the page and waits until it is live. */
export async function open(page: Page, headwater: Headwater, path = "/"): Promise<void> {
  await page.goto(headwater.url + path);
  await expect(page.getByRole("link", { name: "Connection: live" })).toBeVisible();
}

/** Stands between the page and the server's WebSocket. Has to be called before the page is opened. */
export async function between(page: Page, rewrite: Rewrite, heard?: (message: Json) => void): Promise<void> {
  await page.routeWebSocket(/\/live$/, (socket: WebSocketRoute) => {
    const server = socket.connectToServer();
    const say = (message: Json) => socket.send(JSON.stringify(message));
    socket.onMessage((text) => {
      const message = JSON.parse(String(text)) as Json;
      heard?.(message);
      const passed = rewrite({ ...message, fromPage: true }, { say });
      if (passed) server.send(text);
    });
    server.onMessage((text) => {
      const passed = rewrite(JSON.parse(String(text)) as Json, { say });
      if (passed) say(passed);
    });
  });
}

/** Hands each post on its way to the page to `change`; what that returns goes there in its place. */
export function posts(change: (post: Json) => Json): Rewrite {
  return (message) => {
    if (message["type"] !== "events") return message;
    const frames = (message["frames"] as Json[]).map((frame) => {
      if (!String(frame["topic"]).startsWith("mastodon/")) return frame;
      const events = (frame["events"] as Json[]).map((event) => (event["type"] === "post" ? change(event) : event));
      return { ...frame, events };
    });
    return { ...message, frames };
  };
}

/** Takes a picture for people to look at. */
export async function shoot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `${OUTPUT}${name}.png` });
}
