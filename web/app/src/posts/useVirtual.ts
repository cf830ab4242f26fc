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

/** Returns a virtualizer that renders the component again when the visible items change. */
export function useVirtual(
  options: PartialKeys<FullOptions, "observeElementRect" | "observeElementOffset" | "scrollToFn">,
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
  virtualizer.setOptions(full);
  useLayoutEffect(() => virtualizer._didMount(), []);
  useLayoutEffect(() => virtualizer._willUpdate());
  return virtualizer;
}
