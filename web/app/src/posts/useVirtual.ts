/** TanStack's virtual list for Preact: only the visible items are in the document. */

import { useSignal } from "@preact/signals";
import {
  elementScroll,
  observeElementOffset,
  observeElementRect,
  type PartialKeys,
  Virtualizer,
  type VirtualizerOptions,
} from "@tanstack/virtual-core";
import { useLayoutEffect, useState } from "preact/hooks";

type FullOptions = VirtualizerOptions<HTMLElement, HTMLElement>;

/**
 * Returns a virtualizer that renders the component again when the visible items change. If the list is scrolled
 * by more than `holdBelow` pixels, the item at the top of the view stays where it is when items above it come or go.
 */
export function useVirtual(
  options: PartialKeys<FullOptions, "observeElementRect" | "observeElementOffset" | "scrollToFn">,
  holdBelow: number,
): Virtualizer<HTMLElement, HTMLElement> {
  const version = useSignal(0);
  // Reading the signal makes the component render when it changes.
  void version.value;
  const full: FullOptions = {
    observeElementRect,
    observeElementOffset,
    scrollToFn: elementScroll,
    ...options,
    onChange: () => {
      version.value += 1;
    },
  };
  const [virtualizer] = useState(() => new Virtualizer<HTMLElement, HTMLElement>(full));
  const element = full.getScrollElement();
  const held = element && element.scrollTop > holdBelow ? virtualizer.getVirtualItemForOffset(element.scrollTop) : null;
  virtualizer.setOptions(full);
  useLayoutEffect(() => virtualizer._didMount(), []);
  useLayoutEffect(() => {
    virtualizer._willUpdate();
    const now = held && virtualizer.measurementsCache.find(({ key }) => key === held.key);
    if (element && now && now.start !== held.start) element.scrollTop += now.start - held.start;
  });
  return virtualizer;
}
