import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    retry: 0,
    // The system tests mostly wait, so two files can share a core.
    maxWorkers: 2,
    projects: [
      { test: { name: "unit", include: ["client/test/**/*.test.ts", "app/test/**/*.test.ts"] } },
      {
        test: {
          name: "system",
          include: ["tests/system/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // The tests wait for timeouts of the client, so all of a file run at the same time.
          maxConcurrency: 20,
        },
      },
    ],
  },
});
