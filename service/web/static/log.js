// Follows a log by offsets: each part begins where the one before ended, so that no line is lost or shown twice.
const WAIT_MS = 2000;
const MOST_CHARACTERS = 2_000_000; // of the end; the whole log stays with the service

const followed = new WeakSet();

// Again after parts of the page were swapped: a log that is followed already is left alone.
export function followLogs(root) {
  for (const details of root.querySelectorAll("details.log[data-log]")) {
    if (followed.has(details)) continue;
    followed.add(details);
    const pre = details.querySelector("pre");
    pre.dataset.next = "0";
    let following = false;
    details.addEventListener("toggle", async () => {
      if (!details.open || following) return;
      following = true;
      await follow(details, pre, details.dataset.log, () => details.open && details.isConnected);
      following = false;
    });
  }
  for (const panel of root.querySelectorAll("[data-log-open]")) {
    if (followed.has(panel)) continue;
    followed.add(panel);
    const pre = panel.querySelector("pre");
    pre.scrollTop = pre.scrollHeight;
    follow(panel, pre, `${location.pathname}?attempt=${pre.dataset.attempt}`, () => true);
  }
}

async function follow(panel, pre, address, goesOn) {
  const state = panel.querySelector("[data-log-state]");
  while (goesOn() && pre.dataset.complete === undefined) {
    let part = null;
    if (!document.hidden) {
      try {
        const answer = await fetch(`${address}&offset=${pre.dataset.next}`);
        if (new URL(answer.url).pathname === "/login") return location.reload(); // the token is no longer good
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        part = answer.ok ? page.querySelector("pre[data-next]") : null;
      } catch {
        // The service is away for a moment; what is shown stays, and the next part begins where this one ended.
      }
    }
    if (part) {
      if (part.textContent) append(panel, pre, part.textContent);
      pre.dataset.next = part.dataset.next;
      if (part.dataset.complete !== undefined) pre.dataset.complete = "";
      if (state) state.textContent = part.dataset.complete !== undefined ? "That is all." : pre.textContent ? "" : "Nothing yet.";
    }
    if (!part?.textContent) await new Promise((done) => setTimeout(done, WAIT_MS));
  }
}

function append(panel, pre, text) {
  pre.append(text);
  if (pre.textContent.length > MOST_CHARACTERS) pre.textContent = pre.textContent.slice(-MOST_CHARACTERS);
  if (panel.querySelector("[data-follow]")?.checked) pre.scrollTop = pre.scrollHeight;
}
