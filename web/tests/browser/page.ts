/** Fixtures of the browser tests: real servers, and a page that is checked for script and policy violations. */

import { createHash } from "node:crypto";
import { test as base, expect, type Page, type WebSocketRoute } from "@playwright/test";
import { HeadwaterServer, type ServerOptions } from "../harness/headwater.ts";

/** The folder of the screenshots. */
export const OUTPUT = new URL("../output/", import.meta.url).pathname;

type Json = Record<string, unknown>;

/** Changes a message on its way between the page and the server, or returns `undefined` to drop it. */
export type Rewrite = (message: Json, reply: (message: Json) => void) => Json | undefined;

async function withServer(options: ServerOptions, use: (server: HeadwaterServer) => Promise<void>): Promise<void> {
  const server = await HeadwaterServer.start({ rate: 60, ...options });
  await use(server);
  await server.stop();
}

export const test = base.extend<
  { violations: string[]; restartable: HeadwaterServer },
  { headwater: HeadwaterServer; guarded: HeadwaterServer }
>({
  /** One server for every test of a worker that leaves it as it was. */
  // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
  headwater: [({}, use) => withServer({}, use), { scope: "worker" }],
  /** A server that accepts tokens. */
  // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
  guarded: [({}, use) => withServer({ tokens: true }, use), { scope: "worker" }],
  /** A server for one test, which may kill and restart it. */
  // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
  restartable: ({}, use) => withServer({ durable: true }, use),
  /** What the page did that no page may do. A test that expects violations removes them from the list. */
  violations: [
    async ({ page }, use) => {
      const violations: string[] = [];
      page.on("pageerror", (error) => violations.push(`uncaught: ${error.message}`));
      page.on("dialog", async (dialog) => {
        violations.push(`dialog: ${dialog.message()}`);
        await dialog.dismiss();
      });
      page.on("console", (message) => {
        if (/Content Security Policy|Trusted ?Type/i.test(message.text())) violations.push(message.text());
      });
      await page.route(/^https:/, (route) => {
        if (route.request().resourceType() !== "image") return route.abort();
        return route.fulfill({ contentType: "image/svg+xml", body: image(route.request().url()) });
      });
      await use(violations);
      expect(violations).toEqual([]);
    },
    { auto: true },
  ],
});

export { expect };

/** Returns an image that depends only on the URL. */
function image(url: string): string {
  const [a = 0, b = 0, c = 0] = createHash("sha256").update(url).digest();
  const color = (hue: number, light: number) => `hsl(${Math.round(160 + (hue / 255) * 130)} 42% ${light}%)`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="640" height="480" viewBox="0 0 640 480" preserveAspectRatio="none">
    <defs><linearGradient id="sky" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="${color(a, 78)}"/><stop offset="1" stop-color="${color(b, 90)}"/></linearGradient></defs>
    <rect width="640" height="480" fill="url(#sky)"/><circle cx="${120 + c}" cy="130" r="52" fill="#fff" opacity=".75"/>
    <path d="M0 ${300 + b / 4} C160 ${210 + a / 4} 300 ${330 - c / 5} 640 ${240 + a / 5} V480 H0Z" fill="${color(c, 58)}"/>
    <path d="M0 ${390 - a / 6} C220 ${330 + c / 6} 420 ${430 - b / 5} 640 ${350 + b / 6} V480 H0Z" fill="${color(a, 40)}"/></svg>`;
}

/** Opens a path of the page and waits until its connection is open. */
export async function open(page: Page, server: HeadwaterServer, path = "/"): Promise<void> {
  await page.goto(server.url + path);
  await expect(page.getByRole("link", { name: "Connection: live" })).toBeVisible();
}

/** Rewrites the messages of the page's WebSocket, in both directions. Call it before the page is opened. */
export async function rewriteMessages(page: Page, rewrite: Rewrite): Promise<void> {
  await page.routeWebSocket(/\/live$/, (socket: WebSocketRoute) => {
    const server = socket.connectToServer();
    const toPage = (message: Json) => socket.send(JSON.stringify(message));
    socket.onMessage((text) => {
      if (rewrite(JSON.parse(String(text)) as Json, toPage)) server.send(text);
    });
    server.onMessage((text) => {
      const message = rewrite(JSON.parse(String(text)) as Json, toPage);
      if (message) toPage(message);
    });
  });
}

/**
 * Returns a rewrite that replaces every new post by what `change` returns. The edits and deletions of the simulator are
 * made ineffective, so that only the test changes posts.
 */
export function rewritePosts(change: (post: Json) => Json): Rewrite {
  return (message) => {
    if (message["type"] !== "events") return message;
    const frames = (message["frames"] as Json[]).map((frame) => {
      if (!String(frame["topic"]).startsWith("mastodon/")) return frame;
      const events = (frame["events"] as Json[]).map((event) =>
        event["type"] === "post" ? change(event) : { ...event, type: "post.deleted", id: "urn:none" },
      );
      return { ...frame, events };
    });
    return { ...message, frames };
  };
}

/** Saves a screenshot for a person to look at. */
export async function screenshot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `${OUTPUT}${name}.png` });
}
