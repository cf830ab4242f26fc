/** Formats numbers and times for people. */

const formats = new Map<string, Intl.NumberFormat>();

function format(key: string, options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const cached = formats.get(key) ?? new Intl.NumberFormat("en-US", options);
  formats.set(key, cached);
  return cached;
}

/** Returns the number of decimals of a decimal string. */
export function decimalsOf(text: string): number {
  const dot = text.indexOf(".");
  return dot < 0 ? 0 : text.length - dot - 1;
}

/** `64,230.10`. */
export function fixed(value: number, decimals: number): string {
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return format(`fixed ${decimals}`, options).format(value);
}

/** `1.2K`, for numbers whose magnitude is enough. */
export function compact(value: number): string {
  return format("compact", { notation: "compact", maximumFractionDigits: 2 }).format(value);
}

/** `+1.25%`. */
export function percent(ratio: number): string {
  const options = {
    style: "percent",
    minimumFractionDigits: 2,
    maximumFractionDigits: 2,
    signDisplay: "exceptZero",
  } as const;
  return format("percent", options).format(ratio);
}

/** `0.0123`, rounded to five significant digits. */
export function amount(text: string): string {
  const value = Number(text);
  const options = { maximumSignificantDigits: 5, useGrouping: true } as const;
  return format("amount", options).format(value);
}

/** `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1_000;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = seconds / 60;
  if (minutes < 90) return `${Math.round(minutes)} min`;
  const hours = minutes / 60;
  return hours < 36 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} d`;
}

/** `now`, `12s`, `3m`, `5h`, `2d`. */
export function age(at: string, now: number): string {
  const seconds = Math.max(0, (now - Date.parse(at)) / 1_000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** `14:03:27`. */
export function clock(at: string): string {
  return new Date(at).toLocaleTimeString("en-GB");
}

/** `22 Nov 2026, 14:03:27`, for tooltips. */
export function moment(at: string): string {
  return new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}
