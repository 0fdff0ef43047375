// Moments in the reader's own zone: relative words, and the exact one on hover.
const UNITS = [["year", 31_557_600], ["month", 2_629_800], ["week", 604_800], ["day", 86_400], ["hour", 3600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

export function tellTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.textContent = inWords((at.getTime() - Date.now()) / 1000);
    element.title = exact.format(at);
  }
}

function inWords(seconds) {
  const unit = UNITS.find(([, length]) => Math.abs(seconds) >= length);
  if (!unit) return seconds > 0 ? "in a moment" : "just now";
  return relative.format(Math.trunc(seconds / unit[1]), unit[0]);
}
