/** Following a topic for as long as a component is on the page. */

import { useSignal } from "@preact/signals";
import type { Delivery, EventOf, SubscribeOptions } from "headwater-client";
import { useEffect, useRef } from "preact/hooks";
import { className, follow } from "./session";

/**
 * Follows `topic` while `active`, and returns the reason if the server refuses it. What was refused is asked for again
 * when the reader's class has changed.
 */
export function useTopic<T extends string>(
  topic: T,
  active: boolean,
  options: SubscribeOptions,
  listener: (delivery: Delivery<EventOf<T>>) => void,
  /** Another value has the topic followed anew, from its start. */
  round = 0,
): Error | undefined {
  const error = useSignal<Error | undefined>(undefined);
  const attempt = useSignal(0);
  const refusedAs = useRef<string | undefined>(undefined);
  useEffect(() => {
    if (!active) return;
    error.value = undefined;
    const onError = (reason: Error) => {
      refusedAs.current = className.peek();
      error.value = reason;
    };
    return follow(topic, { ...options, onError }, listener);
  }, [topic, active, attempt.value, round]);
  const name = className.value;
  useEffect(() => {
    if (error.peek() && name !== refusedAs.current) attempt.value += 1;
  }, [name]);
  return error.value;
}
