/** TanStack's virtual list for Preact: only what can be seen is on the page. */

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

type Options = VirtualizerOptions<HTMLElement, HTMLElement>;

/** Returns a virtualizer that has the component rendered anew when what can be seen changes. */
export function useVirtual(
  options: PartialKeys<Options, "observeElementRect" | "observeElementOffset" | "scrollToFn">,
): Virtualizer<HTMLElement, HTMLElement> {
  const version = useSignal(0);
  // The component reads it, and so is rendered when it changes.
  void version.value;
  const full: Options = {
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
