import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

/** Debian's Chromium where it is installed, otherwise Playwright's own. */
const debian = "/usr/bin/chromium";

export default defineConfig({
  testDir: ".",
  outputDir: "../output/browser",
  reporter: [["list"]],
  // Each worker runs a server and a browser.
  workers: 1,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  retries: process.env["CI"] ? 1 : 0,
  ...(!process.env["SOAK_SECONDS"] && { grepInvert: /@soak/ }),
  use: {
    viewport: { width: 1440, height: 900 },
    trace: "retain-on-failure",
    launchOptions: {
      ...(existsSync(debian) && { executablePath: debian }),
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
});
