/** The color theme: the system's, unless the reader has chosen one. */

import { computed, effect, signal } from "@preact/signals";
import { persisted } from "./persisted";

/** An element that resolves colors, which depend on the theme. */
const probe = document.createElement("span");

/** The themes that the reader can choose. */
export type Choice = "system" | "light" | "dark";

const isChoice = (value: unknown): value is Choice => value === "system" || value === "light" || value === "dark";

/** The reader's choice. */
export const choice = persisted<Choice>("theme", "system", isChoice);

const system = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(system.matches);
system.addEventListener("change", () => {
  systemDark.value = system.matches;
});

/** The theme in use. */
export const theme = computed(() => {
  if (choice.value !== "system") return choice.value;
  return systemDark.value ? "dark" : "light";
});

effect(() => {
  document.documentElement.dataset["theme"] = theme.value;
});

/** Switches to the other theme. */
export function toggle(): void {
  choice.value = theme.value === "dark" ? "light" : "dark";
}

/** Returns the value of a color of the theme, for drawing on a canvas. */
export function color(name: string): string {
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
