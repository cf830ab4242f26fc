/** How the page is served. */

import { request } from "node:http";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { expect, test } from "./page.ts";

interface Answer {
  status: number | undefined;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
}

/** Asks without a browser, which would hide what is on the wire. */
function ask(url: string, headers: Record<string, string> = {}, method = "GET"): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const call = request(url, { headers, method }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("end", () =>
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(parts) }),
      );
    });
    call.on("error", reject);
    call.end();
  });
}

test("the document is checked each time, the rest is kept for good, and both are compressed", async ({ headwater }) => {
  const plain = await ask(`${headwater.url}/`);
  expect(plain.status).toBe(200);
  expect(plain.headers["content-type"]).toBe("text/html; charset=utf-8");
  expect(plain.headers["cache-control"]).toBe("no-cache");
  const etag = String(plain.headers["etag"]);
  expect((await ask(`${headwater.url}/posts`, { "if-none-match": etag })).status).toBe(304);

  const script = /src="(\/assets\/[^"]+\.js)"/.exec(plain.body.toString())?.[1];
  const url = `${headwater.url}${script}`;
  const raw = await ask(url);
  expect(raw.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
  expect(raw.headers["content-encoding"]).toBeUndefined();
  const brotli = await ask(url, { "accept-encoding": "gzip, br" });
  expect(brotli.headers["content-encoding"]).toBe("br");
  expect(brotliDecompressSync(brotli.body).equals(raw.body)).toBe(true);
  const gzip = await ask(url, { "accept-encoding": "gzip, br;q=0" });
  expect(gzip.headers["content-encoding"]).toBe("gzip");
  expect(gunzipSync(gzip.body).equals(raw.body)).toBe(true);
  const head = await ask(url, {}, "HEAD");
  expect([head.status, head.body.length]).toEqual([200, 0]);
});

test("the policy is strict, and nothing is kept by the server", async ({ headwater }) => {
  const { headers } = await ask(`${headwater.url}/`);
  const policy = String(headers["content-security-policy"]);
  for (const part of [
    "default-src 'none'",
    "script-src 'self'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ]) {
    expect(policy).toContain(part);
  }
  expect(policy).not.toContain("unsafe");
  expect(headers["x-content-type-options"]).toBe("nosniff");
  expect(headers["referrer-policy"]).toBe("no-referrer");
  expect(headers["permissions-policy"]).toContain("camera=()");
  expect(headers["set-cookie"]).toBeUndefined();
});

test("what is not there is a problem, and not the page", async ({ headwater }) => {
  for (const path of ["/assets/gone.js", "/api/v1/nothing", "/robots.txt"]) {
    const { status, headers } = await ask(headwater.url + path);
    expect([status, headers["content-type"]], path).toEqual([404, "application/problem+json"]);
  }
  expect((await ask(`${headwater.url}/`, {}, "POST")).status).toBe(405);
});

test("the page asks nobody but its server", async ({ page, headwater }) => {
  const hosts = new Set<string>();
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  await page.goto(headwater.url);
  await expect(page.getByRole("link", { name: "Connection: live" })).toBeVisible();
  expect([...hosts]).toEqual([new URL(headwater.url).host]);
  expect(await page.context().cookies()).toEqual([]);
});
