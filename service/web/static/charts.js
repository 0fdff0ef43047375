// Reads values off a chart under the pointer; the chart itself is the server's.
const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];

export function readCharts(root) {
  root.addEventListener("pointermove", (event) => {
    const svg = event.target.closest?.("svg[data-ends]");
    for (const other of root.querySelectorAll(".readout")) if (other.parentElement !== svg?.parentElement) other.remove();
    if (svg) read(svg, event);
  });
}

function read(svg, event) {
  const [left, right, bottom, top] = svg.dataset.box.split(" ").map(Number);
  const [xLow, xHigh, yLow, yHigh] = svg.dataset.ends.split(" ").map(Number);
  const box = svg.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
  const figure = svg.parentElement;
  let readout = figure.querySelector(".readout");
  if (at < left || at > right) return readout?.remove();
  if (!readout) {
    readout = document.createElement("div");
    readout.className = "readout";
    readout.setAttribute("aria-hidden", "true");
    figure.append(readout);
  }
  const lines = [...svg.querySelectorAll(".line")].map((line) => {
    const points = [...line.points];
    const near = points.reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a));
    const value = yLow + ((near.y - bottom) / (top - bottom)) * (yHigh - yLow);
    return `${line.dataset.name} ${shown(value)}`;
  });
  const x = xLow + ((at - left) / (right - left)) * (xHigh - xLow);
  readout.textContent = [`at ${shown(x)}`, ...lines].join("\n");
  const onTheRight = at > (left + right) / 2;
  const place = event.clientX - figure.getBoundingClientRect().left;
  readout.style.left = onTheRight ? "auto" : `${place + 14}px`;
  readout.style.right = onTheRight ? `${figure.clientWidth - place + 14}px` : "auto";
}

function shown(value) {
  const prefix = PREFIXES.find(([unit]) => Math.abs(value) >= unit);
  return prefix ? `${(value / prefix[0]).toPrecision(3)}${prefix[1]}` : String(Number(value.toPrecision(3)));
}
