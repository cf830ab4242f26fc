/** How the server delivers the files of the page. */

import { request } from "node:http";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { expect, open, test } from "./page.ts";

interface HttpResponse {
  status: number | undefined;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
}

/** Sends a request without a browser, which would hide caching and compression. */
function send(url: string, headers: Record<string, string> = {}, method = "GET"): Promise<HttpResponse> {
  return new Promise((resolve, reject) => {
    const call = request(url, { headers, method }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () =>
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) }),
      );
    });
    call.on("error", reject);
    call.end();
  });
}

test("the document is revalidated, the assets are immutable, and both are compressed", async ({ headwater }) => {
  const plain = await send(`${headwater.url}/`);
  expect(plain.status).toBe(200);
  expect(plain.headers["content-type"]).toBe("text/html; charset=utf-8");
  expect(plain.headers["cache-control"]).toBe("no-cache");
  const etag = String(plain.headers["etag"]);
  expect((await send(`${headwater.url}/posts`, { "if-none-match": etag })).status).toBe(304);

  const script = /src="(\/assets\/[^"]+\.js)"/.exec(plain.body.toString())?.[1];
  const url = `${headwater.url}${script}`;
  const raw = await send(url);
  expect(raw.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
  expect(raw.headers["content-encoding"]).toBeUndefined();
  const brotli = await send(url, { "accept-encoding": "gzip, br" });
  expect(brotli.headers["content-encoding"]).toBe("br");
  expect(brotliDecompressSync(brotli.body).equals(raw.body)).toBe(true);
  const gzip = await send(url, { "accept-encoding": "gzip, br;q=0" });
  expect(gzip.headers["content-encoding"]).toBe("gzip");
  expect(gunzipSync(gzip.body).equals(raw.body)).toBe(true);
  const head = await send(url, {}, "HEAD");
  expect([head.status, head.body.length]).toEqual([200, 0]);
});

test("the security headers are strict and the server sets no cookie", async ({ headwater }) => {
  const { headers } = await send(`${headwater.url}/`);
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

test("a missing file is a problem response, not the page", async ({ headwater }) => {
  for (const path of ["/assets/gone.js", "/api/v1/nothing", "/robots.txt"]) {
    const { status, headers } = await send(headwater.url + path);
    expect([status, headers["content-type"]], path).toEqual([404, "application/problem+json"]);
  }
  expect((await send(`${headwater.url}/`, {}, "POST")).status).toBe(405);
});

test("the page requests nothing from other hosts", async ({ page, headwater }) => {
  const hosts = new Set<string>();
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  await open(page, headwater);
  expect([...hosts]).toEqual([new URL(headwater.url).host]);
  expect(await page.context().cookies()).toEqual([]);
});
