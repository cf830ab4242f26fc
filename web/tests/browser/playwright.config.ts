import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

/** Debian's Chromium, if it is installed; otherwise Playwright's own is used. */
const debianChromium = "/usr/bin/chromium";

/** Tests that run only on request: the long soak test and the screenshot of the README. */
const skipped = [!process.env["SOAK_SECONDS"] && /@soak/, !process.env["UPDATE_PICTURE"] && /@picture/];

export default defineConfig({
  testDir: ".",
  outputDir: "../output/browser",
  reporter: [["list"]],
  // Each worker runs its own browser and its own servers, so every test can run beside any other.
  fullyParallel: true,
  workers: 2,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  retries: 0,
  grepInvert: skipped.filter((pattern) => pattern !== false),
  use: {
    viewport: { width: 1440, height: 900 },
    // Recording screenshots would take a large part of the time of the tests.
    trace: { mode: "retain-on-failure", screenshots: false },
    screenshot: "only-on-failure",
    launchOptions: {
      ...(existsSync(debianChromium) && { executablePath: debianChromium }),
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
