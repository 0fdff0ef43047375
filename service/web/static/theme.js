// Before anything is drawn: the theme that was chosen, so that a dark page does not flash white.
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  try {
    const kept = localStorage.getItem("reco-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch {
    // Storage may be forbidden: then the system's choice holds.
  }
})();
