// Recalculates as soon as a choice is made. Without this script the "Recalculate" button does the same.
(() => {
  "use strict";
  const main = document.querySelector("main[data-live]");
  if (!main) return;
  document.documentElement.classList.add("js");
  let running = null;
  let pressed = Promise.resolve();

  async function recalculate(go) {
    const form = main.querySelector("form");
    const data = new URLSearchParams(new FormData(form));
    data.set("go", go);
    running?.abort();
    const mine = (running = new AbortController());
    main.classList.add("busy");
    try {
      const answer = await fetch(form.action, { method: "POST", body: data, signal: mine.signal, headers: { "X-Fragment": "1" } });
      // A page instead of a fragment tells of something that has to be seen whole: an ended session, an error.
      if (!answer.headers.get("X-Fragment")) { leave(form, go); return; }
      const html = await answer.text();
      await pressed; // what is being clicked must not move away under the pointer
      if (!mine.signal.aborted) show(html);
    } catch (error) {
      if (error.name === "AbortError") return;
      main.querySelector("#recalculate").classList.remove("nojs");
      say("The page could not be recalculated. Press Recalculate to try again.");
    } finally {
      if (running === mine) main.classList.remove("busy");
    }
  }

  function leave(form, go) {
    const button = form.querySelector("button[value=recalculate]");
    button.value = go;
    form.dataset.whole = "1";
    form.requestSubmit(button);
  }

  function say(words) {
    main.querySelector("#said").textContent = words;
  }

  // Where the focus is, so that it is found again in the new fragment.
  function place(element) {
    if (!element || !main.contains(element)) return null;
    if (element.id) return "#" + CSS.escape(element.id);
    if (element.matches("summary") && element.parentElement.id) return "#" + CSS.escape(element.parentElement.id) + " > summary";
    if (element.name) return `${element.localName}[name="${CSS.escape(element.name)}"][value="${CSS.escape(element.value)}"]`;
    return null;
  }

  // Replaces what was calculated; focus, what is being typed and open explanations stay as they were.
  function show(html) {
    const focused = document.activeElement;
    const where = place(focused);
    const typing = focused?.matches("input[type=text], input[type=number]") ? focused.value : null;
    const selection = typing === null || focused.type === "number" ? null : [focused.selectionStart, focused.selectionEnd];
    const open = [...main.querySelectorAll("details[open][id]")].map((details) => details.id);
    main.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    const again = where && (main.querySelector(where) ?? main.querySelector(".sum"));
    if (again) {
      if (again.matches(".sum")) again.tabIndex = -1;
      if (typing !== null && "value" in again) again.value = typing;
      again.focus({ preventScroll: true });
      if (selection && again.setSelectionRange) again.setSelectionRange(...selection);
    }
    const problems = main.querySelector("#problems").textContent.trim();
    say(problems || main.querySelector(".sum").dataset.said);
  }

  main.addEventListener("change", (event) => {
    const field = event.target.closest("[data-live-field]");
    if (!field) return;
    // Minutes count with their reason: with one of the two still empty there is nothing to calculate yet.
    const others = (field.dataset.with ?? "").split(" ").filter(Boolean);
    const waits = field.value.trim() && others.some((id) => !document.getElementById(id)?.value.trim());
    if (!waits) recalculate("recalculate");
  });

  main.addEventListener("submit", (event) => {
    const go = event.submitter?.value ?? "recalculate";
    const calculates = go === "recalculate" || go.startsWith("put:"); // any other button leads to a page
    if (event.target !== main.querySelector("form") || event.target.dataset.whole || !calculates) return;
    event.preventDefault();
    recalculate(go);
  });

  main.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    const target = link && document.getElementById(link.hash.slice(1));
    if (!target) return;
    for (let outer = target.closest("details"); outer; outer = outer.parentElement.closest("details")) outer.open = true;
    target.querySelector("details")?.setAttribute("open", "");
    target.querySelector("summary, input, select, a")?.focus({ preventScroll: true });
  });

  main.addEventListener("pointerdown", () => {
    pressed = new Promise((done) => addEventListener("pointerup", () => setTimeout(done), { once: true }));
    addEventListener("pointercancel", () => (pressed = Promise.resolve()), { once: true });
  });
})();
