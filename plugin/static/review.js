// Recalculates as soon as a choice is made. Without this script the "Recalculate" button does the same.
(() => {
  "use strict";
  const main = document.querySelector("main[data-live]");
  if (!main) return;
  let running = null;

  async function recalculate() {
    const form = main.querySelector("form");
    const data = new URLSearchParams(new FormData(form));
    data.set("go", "recalculate");
    running?.abort();
    running = new AbortController();
    main.classList.add("busy");
    try {
      const answer = await fetch(form.action, { method: "POST", body: data, signal: running.signal, headers: { "X-Fragment": "1" } });
      if (!answer.ok || !answer.headers.get("X-Fragment")) { form.requestSubmit(form.querySelector("button[value=recalculate]")); return; }
      show(await answer.text());
    } catch (error) {
      if (error.name !== "AbortError") main.querySelector("#said").textContent = "The page could not be recalculated. Press Recalculate to try again.";
    } finally {
      main.classList.remove("busy");
    }
  }

  // Replaces what was calculated; focus and open explanations stay where they were.
  function show(html) {
    const focused = document.activeElement?.id;
    const open = [...main.querySelectorAll("details[open][id]")].map((details) => details.id);
    main.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    const sum = main.querySelector(".sum");
    main.querySelector("#said").textContent = sum ? sum.dataset.said : "";
  }

  main.addEventListener("change", (event) => {
    if (event.target.closest("[data-live-field]")) recalculate();
  });
})();
