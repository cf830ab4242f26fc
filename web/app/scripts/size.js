/** Prints the compressed size of the page, and fails if it exceeds the budget. */

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";

/** The most bytes of all files together, compressed with gzip. */
const BUDGET = 150 * 1024;

const dist = new URL("../dist", import.meta.url).pathname;
const files = readdirSync(dist, { recursive: true })
  .map(String)
  .filter((name) => name.endsWith(".gz"))
  .map((name) => ({ name: name.slice(0, -3), bytes: statSync(join(dist, name)).size }))
  .sort((a, b) => b.bytes - a.bytes);
const total = files.reduce((sum, { bytes }) => sum + bytes, 0);

for (const { name, bytes } of files) console.log(`${(bytes / 1024).toFixed(1).padStart(7)} KB  ${name}`);
console.log(`${(total / 1024).toFixed(1).padStart(7)} KB  of ${BUDGET / 1024} KB budget, gzipped`);
if (files.length === 0 || total > BUDGET) {
  console.error(files.length === 0 ? "the page is not built" : "the page exceeds its size budget");
  process.exit(1);
}
