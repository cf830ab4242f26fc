/** Icons. Each is decorative: the text beside it, or the label of its button, says the same. */

import type { ComponentChildren } from "preact";

function Icon({ children, size = 18 }: { children: ComponentChildren; size?: number }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width={size} height={size} aria-hidden="true" focusable="false">
      {children}
    </svg>
  );
}

export const Logo = () => (
  <svg class="logo" viewBox="0 0 32 32" width="28" height="28" aria-hidden="true" focusable="false">
    <rect width="32" height="32" rx="8" />
    <path d="M5 12.5c3.7 0 3.7 3 7.3 3s3.7-3 7.4-3 3.6 3 7.3 3M5 19.5c3.7 0 3.7 3 7.3 3s3.7-3 7.4-3 3.6 3 7.3 3" />
  </svg>
);
export const PlayIcon = () => (
  <Icon>
    <path d="M8 5.5v13l10.5-6.5z" fill="currentColor" stroke="none" />
  </Icon>
);
export const StopIcon = () => (
  <Icon>
    <rect x="7" y="7" width="10" height="10" rx="1.5" fill="currentColor" stroke="none" />
  </Icon>
);
export const CloseIcon = () => (
  <Icon>
    <path d="M7 7l10 10M17 7L7 17" />
  </Icon>
);
export const SearchIcon = () => (
  <Icon>
    <circle cx="11" cy="11" r="6" />
    <path d="M15.5 15.5L20 20" />
  </Icon>
);
export const PlusIcon = () => (
  <Icon>
    <path d="M12 5.5v13M5.5 12h13" />
  </Icon>
);
export const SunIcon = () => (
  <Icon>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4" />
  </Icon>
);
export const MoonIcon = () => (
  <Icon>
    <path d="M19.5 14.2A7.7 7.7 0 0 1 9.8 4.5a7.7 7.7 0 1 0 9.7 9.7z" />
  </Icon>
);
export const ChartIcon = () => (
  <Icon size={20}>
    <path d="M4 17l5-6 4 3.5L20 6.5" />
  </Icon>
);
export const BubbleIcon = () => (
  <Icon size={20}>
    <path d="M5 6.5h14v9.5H11l-4 3.2V16H5z" />
  </Icon>
);
export const PulseIcon = () => (
  <Icon size={20}>
    <path d="M3 12.5h4l2.5-6 4.5 11 2.5-5h4.5" />
  </Icon>
);
export const PersonIcon = () => (
  <Icon>
    <circle cx="12" cy="8.5" r="3.5" />
    <path d="M5 19.5c1-3.6 3.6-5 7-5s6 1.4 7 5" />
  </Icon>
);
export const PauseIcon = () => (
  <Icon>
    <path d="M9 6.5v11M15 6.5v11" stroke-width="2.4" />
  </Icon>
);
export const UpIcon = () => (
  <Icon size={16}>
    <path d="M12 18.5V6M6.5 11L12 5.5 17.5 11" />
  </Icon>
);
export const ReplyIcon = () => (
  <Icon size={16}>
    <path d="M10 8L5 12.5 10 17M5.5 12.5H14c3 0 5 1.5 5 5" />
  </Icon>
);
export const BoostIcon = () => (
  <Icon size={16}>
    <path d="M7 17.5V8.5H16M7 8.5L10 5.5M17 6.5v9H8M17 15.5l-3 3" />
  </Icon>
);
export const HeartIcon = () => (
  <Icon size={16}>
    <path d="M12 19s-7-4.3-7-9.2A3.8 3.8 0 0 1 12 7.6a3.8 3.8 0 0 1 7 2.2C19 14.7 12 19 12 19z" />
  </Icon>
);
export const OutwardIcon = () => (
  <Icon size={16}>
    <path d="M9 6.5H6V18h11.5v-3M13 6h5v5M18 6l-7.5 7.5" />
  </Icon>
);
