// The figures. Where a key is needed, it is asked for, and kept until this tab is closed.

const KEY = "axolotl-operator-key";

export class NeedsKey extends Error {}
export class NotThere extends Error {}

let key = "";
try { key = sessionStorage.getItem(KEY) || ""; } catch { /* kept in this page alone */ }

export function setKey(value) {
  key = value;
  try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* the same */ }
}

export async function get(path) {
  const answer = await fetch(`api/${path}`, {
    headers: key ? { Authorization: `Bearer ${key}` } : {},
    cache: "no-store",
    credentials: "omit",
  });
  if (answer.status === 401 || answer.status === 403) {
    const wasGiven = Boolean(key);
    setKey("");
    throw new NeedsKey(answer.status === 403 ? "This key may not look in here: an operator's key is needed."
      : wasGiven ? "The server does not know this key." : "");
  }
  if (answer.status === 404) throw new NotThere();
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.json();
}
