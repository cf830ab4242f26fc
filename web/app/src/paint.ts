/** Defers work to the next repaint of the screen. */

const dirty = new Set<() => void>();
let scheduled = false;

/** Runs `update` once before the next repaint, however often it is requested. */
export function beforeNextPaint(update: () => void): void {
  dirty.add(update);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const updates = [...dirty];
    dirty.clear();
    for (const run of updates) run();
  });
}

/** Returns a function that runs `update` at most once per `ms` milliseconds, before a repaint. */
export function atMostEvery(ms: number, update: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = 0;
  return () => {
    if (timer !== undefined) return;
    const wait = Math.max(0, last + ms - performance.now());
    timer = setTimeout(() => {
      timer = undefined;
      last = performance.now();
      beforeNextPaint(update);
    }, wait);
  };
}
