// The keyboard: every page can be used without a mouse, and quickly.
const PLACES = { r: "/runs", s: "/sweeps", m: "/models", d: "/datasets" };
const SECOND_KEY_MS = 2500;
let went = 0;

export function listenToKeys(root) {
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || root.querySelector("dialog[open]")) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const second = Date.now() - went < SECOND_KEY_MS;
    went = 0;
    if (second && PLACES[event.key]) return location.assign(PLACES[event.key]);
    const act = KEYS[event.key];
    if (act) {
      act(root);
      event.preventDefault();
    }
  });
}

export function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("reco-theme", root.dataset.theme);
  } catch {
    // Storage may be forbidden: then it holds for this page.
  }
}

const KEYS = {
  "/": (root) => root.querySelector("[data-search]")?.select(),
  "?": (root) => root.getElementById("help").showModal(),
  g: () => (went = Date.now()),
  j: (root) => move(root, 1),
  k: (root) => move(root, -1),
  t: toggleTheme,
  x: () => document.activeElement.closest("[data-row]")?.querySelector("input[type=checkbox]")?.click(),
};

function move(root, by) {
  const rows = [...root.querySelectorAll("[data-row]")].filter((row) => row.querySelector("a"));
  const now = rows.indexOf(root.activeElement.closest("[data-row]"));
  const next = rows[now < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(now + by, 0), rows.length - 1)];
  next?.querySelector("a").focus(); // Enter then opens it, as it does any link
}
