// What the pages do beyond being read; each part works alone, and no page needs any of them.
import { followLogs } from "./log.js";
import { keepLive } from "./live.js";
import { listenToKeys, toggleTheme } from "./keys.js";
import { openQuestions } from "./questions.js";
import { readCharts } from "./charts.js";
import { tellTimes } from "./times.js";

keepLive(document); // first: it remembers the page as the server sent it
tellTimes(document);
setInterval(() => tellTimes(document), 30_000);
followLogs(document);
listenToKeys(document);
openQuestions(document);
readCharts(document);

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-theme-toggle]")) toggleTheme();
  if (event.target.closest("[data-help]")) document.getElementById("help").showModal();
});

const ticked = () => document.querySelectorAll("input[name=run]:checked").length;
const offerComparison = () => {
  const button = document.querySelector("[data-compare]");
  if (!button) return;
  const number = ticked();
  button.disabled = number < 2;
  button.textContent = number ? `Compare ${number}` : "Compare";
};
document.addEventListener("change", offerComparison);
document.addEventListener("reco:swapped", offerComparison);
document.addEventListener("reco:swapped", () => followLogs(document));
offerComparison();
