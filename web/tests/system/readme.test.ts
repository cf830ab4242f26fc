/** The example of the README does what the README says. */

import { execFileSync, spawn } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Headwater } from "../harness/headwater.ts";

const README = new URL("../../../README.md", import.meta.url);
const CLIENT_README = new URL("../../client/README.md", import.meta.url);
const OUTPUT = new URL("../output/", import.meta.url);

let headwater: Headwater;

beforeAll(async () => {
  headwater = await Headwater.start({ rate: 100 });
  await mkdir(OUTPUT, { recursive: true });
});

afterAll(() => headwater.stop());

/** The first block of TypeScript in a document, for the server of this test. */
async function example(of: URL): Promise<string> {
  const code = /```ts\n(.*?)```/s.exec(await readFile(of, "utf8"))?.[1];
  if (!code) throw new Error(`${of} has no example`);
  expect(code).toContain("ws://127.0.0.1:8080/live");
  return code.replace("ws://127.0.0.1:8080/live", headwater.socket);
}

test.each([
  ["README.md", README],
  ["web/client/README.md", CLIENT_README],
])("the example of %s is sound, short, and prints prices", async (_name, document) => {
  const code = await example(document);
  expect(code.trim().split("\n").length).toBeLessThanOrEqual(5);

  const typed = new URL("example.ts", OUTPUT);
  await writeFile(typed, `${code}\nexport {};\n`);
  const tsc = new URL("../../node_modules/.bin/tsc", import.meta.url).pathname;
  const options = [
    "--noEmit",
    "--strict",
    "--target",
    "es2022",
    "--module",
    "nodenext",
    "--types",
    "node",
    "--ignoreConfig",
  ];
  execFileSync(tsc, [...options, typed.pathname], { cwd: OUTPUT, stdio: "pipe" });

  // It has no types written out, so it is JavaScript as it stands.
  const plain = new URL("example.mjs", OUTPUT);
  await writeFile(plain, code);
  const program = spawn(process.execPath, [plain.pathname], { stdio: ["ignore", "pipe", "inherit"] });
  let printed = "";
  for await (const part of program.stdout) {
    printed += part;
    if (printed.split("\n").length > 5) break;
  }
  program.kill();
  const lines = printed.trim().split("\n").slice(0, 3);
  for (const line of lines) expect(line).toMatch(/^\d+ '?BTC-USD'? '?[\d.]+'?$/);
  const numbers = lines.map((line) => Number.parseInt(line, 10));
  expect(numbers).toEqual([numbers[0], (numbers[0] ?? 0) + 1, (numbers[0] ?? 0) + 2]);
});
