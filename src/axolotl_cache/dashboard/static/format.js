// Figures for people.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const DASH = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export function count(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  if (size >= 1e9) return `${trim(value / 1e9)} bn`;
  if (size >= 1e6) return `${trim(value / 1e6)} M`;
  if (size >= 1e5) return `${trim(value / 1e3)} k`;
  return grouped.format(value);
}

function trim(value) {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2)));
}

export const whole = (value) => (known(value) ? grouped.format(value) : DASH);

export function percent(share, digits = 0) {
  if (!known(share)) return DASH;
  const value = share * 100;
  if (value > 99.9 && value < 100) return "> 99.9 %";
  // Near both ends with a digit more: "100 %" is for all of them, and "0 %" for none.
  return `${value.toFixed(value && (value < 10 || (value > 99 && value < 100)) && !digits ? 1 : digits)} %`;
}

// A duration of computing: 340 µs, 12 ms, 1.24 s, 3 min 20 s, 4 h 10 min.
export function seconds(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.9995e-3) return `${trimmed(value * 1e6)} µs`;
  if (size < 0.9995) return `${trimmed(value * 1e3)} ms`;
  if (size < 60) return `${trimmed(value)} s`;
  if (size < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  if (size < 86400) return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.round((value % 86400) / 3600)} h`;
}

const trimmed = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))));

export function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let n = 0;
  while (Math.abs(value) >= 1000 && n < units.length - 1) { value /= 1000; n += 1; }
  return `${n ? trim(value) : value} ${units[n]}`;
}

export function money(value, currency) {
  if (!known(value)) return DASH;
  const digits = Math.abs(value) >= 1 || value === 0 ? 2 : Math.min(6, 1 - Math.floor(Math.log10(Math.abs(value))));
  try {
    return new Intl.NumberFormat("en", { style: "currency", currency: currency || "USD", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
  } catch { return `${value.toFixed(digits)} ${currency}`; }
}

export function times(value) {
  if (!known(value)) return DASH;
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(0) : value.toFixed(1)} ×`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const time = (at, span = 0) => (span > 86400 ? day : clock).format(new Date(at * 1000));
export const timeExact = (at) => exact.format(new Date(at * 1000));
export const dateTime = (at) => date.format(new Date(at * 1000));

export function ago(value) {
  if (!known(value)) return DASH;
  if (value < 1) return "just now";
  if (value < 60) return `${Math.floor(value)} s ago`;
  if (value < 3600) return `${Math.floor(value / 60)} min ago`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ago`;
  return `${Math.floor(value / 86400)} d ago`;
}

// The tiers, in the order in which a request goes through them.
export const TIERS = [
  { key: "hit-exact", name: "exact answer", short: "exact", tone: "exact" },
  { key: "hit-semantic", name: "like answer", short: "semantic", tone: "semantic" },
  { key: "hit-session", name: "session", short: "session", tone: "session" },
  { key: "hit-prefix", name: "reused prefix", short: "prefix", tone: "prefix" },
  { key: "miss", name: "computed in full", short: "computed", tone: "miss" },
];
export const tierOf = (key) => TIERS.find((tier) => tier.key === key) || { key, name: key, short: key, tone: "miss" };
