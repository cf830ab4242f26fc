/** A line of the latest prices. */

const WIDTH = 100;
const HEIGHT = 28;

/** A line through `points` that fills the available width. */
export function Sparkline({ points, rising }: { points: readonly number[]; rising: boolean }) {
  const low = Math.min(...points);
  const span = Math.max(...points) - low || 1;
  const x = (index: number) => ((index / Math.max(1, points.length - 1)) * WIDTH).toFixed(1);
  const y = (value: number) => (HEIGHT - 2 - ((value - low) / span) * (HEIGHT - 4)).toFixed(1);
  const line = points.map((value, index) => `${x(index)},${y(value)}`).join(" L");
  return (
    <svg
      class={`spark ${rising ? "up" : "down"}`}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      {points.length > 1 && (
        <>
          <path class="area" d={`M0,${HEIGHT} L${line} L${WIDTH},${HEIGHT} Z`} />
          <path class="line" d={`M${line}`} />
        </>
      )}
    </svg>
  );
}
