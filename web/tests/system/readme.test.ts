/** The examples of the README files compile, run and print what the text promises. */

import { execFile, spawn } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { HeadwaterServer } from "../harness/headwater.ts";

const run = promisify(execFile);

const README = new URL("../../../README.md", import.meta.url);
const CLIENT_README = new URL("../../client/README.md", import.meta.url);
const OUTPUT = new URL("../output/", import.meta.url);

let server: HeadwaterServer;

beforeAll(async () => {
  server = await HeadwaterServer.start({ rate: 100 });
  await mkdir(OUTPUT, { recursive: true });
});

afterAll(() => server.stop());

/** Returns the first TypeScript block of a document, with the URL of this test's server. */
async function example(of: URL): Promise<string> {
  const code = /```ts\n(.*?)```/s.exec(await readFile(of, "utf8"))?.[1];
  if (!code) throw new Error(`${of} has no TypeScript example`);
  expect(code).toContain("ws://127.0.0.1:8080/live");
  return code.replace("ws://127.0.0.1:8080/live", server.socketUrl);
}

test.concurrent.each([
  ["README.md", README, "example"],
  ["web/client/README.md", CLIENT_README, "client-example"],
] as const)("the example of %s compiles, is short and prints prices", async (_title, document, name) => {
  const code = await example(document);
  expect(code.trim().split("\n").length).toBeLessThanOrEqual(5);

  const source = new URL(`${name}.ts`, OUTPUT);
  await writeFile(source, `${code}\nexport {};\n`);
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
  await run(tsc, [...options, source.pathname], { cwd: OUTPUT });

  // The example has no type annotations, so it is also JavaScript.
  const script = new URL(`${name}.mjs`, OUTPUT);
  await writeFile(script, code);
  const program = spawn(process.execPath, [script.pathname], { stdio: ["ignore", "pipe", "inherit"] });
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
