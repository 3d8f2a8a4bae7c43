(() => {
  "use strict";
  const live = document.getElementById("live"), pause = document.getElementById("pause"), told = document.getElementById("told");
  let paused = false, before = "";

  /** Puts in what is new; what was open, scrolled to or focused stays so. */
  function take(fresh) {
    for (const each of live.querySelectorAll("[id]")) {
      const same = fresh.querySelector(`#${CSS.escape(each.id)}`);
      if (same && each.open) same.open = true;
    }
    const places = [...live.querySelectorAll(".scroll")].map((each) => [each.id, each.scrollLeft, each.scrollTop]);
    const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
    live.replaceChildren(...fresh.childNodes);
    for (const [id, left, top] of places) document.getElementById(id)?.scrollTo(left, top);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  async function look() {
    if (paused || document.hidden || !getSelection().isCollapsed) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const text = await answer.text(), page = new DOMParser().parseFromString(text, "text/html");
      if (text !== before) take(page.getElementById("live"));
      document.title = page.title;
      before = text;
      told.textContent = "";
    } catch (error) {
      if (!told.textContent) told.textContent = `No answer since ${new Date().toLocaleTimeString()}: what is shown is what was last known.`;
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "go on" : "pause";
  });
  setInterval(look, 1000 * Number(live.dataset.every));
})();
