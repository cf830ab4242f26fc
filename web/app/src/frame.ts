/** Work that can wait for the next picture on the screen. */

const dirty = new Set<() => void>();
let scheduled = false;

/** Runs `update` before the next picture, once however often it is asked for. */
export function beforeNextFrame(update: () => void): void {
  dirty.add(update);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const updates = [...dirty];
    dirty.clear();
    for (const one of updates) one();
  });
}

/** Returns a function that has `update` run at most every `ms`, and before a picture. */
export function atMostEvery(ms: number, update: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = 0;
  return () => {
    if (timer !== undefined) return;
    const wait = Math.max(0, last + ms - performance.now());
    timer = setTimeout(() => {
      timer = undefined;
      last = performance.now();
      beforeNextFrame(update);
    }, wait);
  };
}
