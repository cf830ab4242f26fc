/** Writes a Brotli and a gzip copy of each file of the page, with the best compression. */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const dist = new URL("../dist", import.meta.url).pathname;

for (const name of readdirSync(dist, { recursive: true }).map(String)) {
  if (!/\.(html|js|css|svg|txt|webmanifest)$/.test(name)) continue;
  const content = readFileSync(join(dist, name));
  const params = { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY };
  writeFileSync(join(dist, `${name}.br`), brotliCompressSync(content, { params }));
  writeFileSync(join(dist, `${name}.gz`), gzipSync(content, { level: 9 }));
}
