/** Dark or light: as the system has it, unless the reader wants it otherwise. */

import { computed, effect, signal } from "@preact/signals";
import { kept } from "./kept";

/** Has a colour resolved that depends on the theme. */
const probe = document.createElement("span");

/** What the reader wants. */
export type Choice = "system" | "light" | "dark";

const isChoice = (value: unknown): value is Choice => value === "system" || value === "light" || value === "dark";

/** The reader's choice. */
export const choice = kept<Choice>("theme", "system", isChoice);

const system = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(system.matches);
system.addEventListener("change", () => {
  systemDark.value = system.matches;
});

/** What the page is shown in. */
export const theme = computed(() => {
  if (choice.value !== "system") return choice.value;
  return systemDark.value ? "dark" : "light";
});

effect(() => {
  document.documentElement.dataset["theme"] = theme.value;
});

/** Changes to the other one. */
export function toggle(): void {
  choice.value = theme.value === "dark" ? "light" : "dark";
}

/** The value of a colour of the theme, for what is drawn and not styled. */
export function colour(name: string): string {
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
