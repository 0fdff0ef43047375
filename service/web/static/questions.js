// Pages that ask before something is changed are opened in a dialog, over the page they were asked from.
export function openQuestions(root) {
  const dialog = root.getElementById("ask");
  root.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (dialog.contains(event.target) && event.target.closest("[data-cancel]")) {
      event.preventDefault();
      dialog.close();
      return;
    }
    const link = event.target.closest("a[data-ask]");
    if (!link) return;
    event.preventDefault();
    try {
      const answer = await fetch(link.href);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const question = page.querySelector("[data-question]");
      if (!question) throw new Error("no question");
      dialog.replaceChildren(question);
      dialog.showModal();
    } catch {
      location.assign(link.href); // the page itself says what is wrong
    }
  });
  root.addEventListener("submit", (event) => {
    const button = event.target.querySelector("button:not([type=button])");
    const words = event.target.dataset.busy;
    if (event.target.method !== "post" || !button) return;
    // After the form is sent: a disabled button would not be.
    setTimeout(() => {
      button.disabled = true;
      if (words) button.textContent = words;
    });
  });
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
