"use strict";
// Shades and curves of what the page says, and the choice of a position or a slot. All text goes in as text.
(() => {
  const every = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const short = (value) => value === null || value === undefined ? "not finite" :
    value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  // Eight shades up to a limit, a decade every two of them; two beyond it.
  const shade = (share) => (share > 10 ? "o2" : share > 1 ? "o1" : "h" + (share > 0 ? Math.max(1, Math.round(7 + 2 * Math.log10(share))) : 0));
  const drawn = (parent, name, attributes) => {
    const made = parent.appendChild(document.createElementNS(SVG, name));
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  // A path through values between 0 (below) and 1; what is null is a gap.
  const curve = (values) => values.map((value, at) => value === null ? "" :
    `${at && values[at - 1] !== null ? "L" : "M"}${(1000 * (at + 0.5) / values.length).toFixed(1)} ${(98 - 96 * value).toFixed(1)}` +
    (values[at + 1] === null || values.length === 1 ? "h.1" : "")).join("");

  function positions(box) {
    const said = every[box.dataset.of], count = said.positions.length, names = Object.keys(said.metrics);
    const [cells, select, input, output] = [".cells", "select", "input", "output"].map((each) => box.querySelector(each));
    const squares = [...cells.children], body = box.querySelector(".tokens tbody");
    const [measure, shares] = box.querySelectorAll(".chart"), caption = measure.nextElementSibling;
    const limit = (name, at) => (said.limits[name] || [])[at ? 1 : 0];
    const used = (name, at) => {
      const value = said.metrics[name][at], most = limit(name, at);
      return value === null ? Infinity : !value || most === null || most === undefined ? 0 : value / most;
    };
    const worst = (at) => names.reduce((best, name) => (used(name, at) > used(best, at) ? name : best), names[0]);
    const shareOf = (at) => used(select.value || worst(at), at);
    const most = () => squares.reduce((best, _, at) => (shareOf(at) > shareOf(best) ? at : best), 0);
    const token = (id) => (id in said.pieces ? `${id} ${said.pieces[id]}` : String(id));
    const title = (name) => select.querySelector(`[value=${name}]`).textContent;
    let now = 0;

    function paint() {
      const name = select.value || "kl", values = said.metrics[name];
      squares.forEach((each, at) => each.classList.remove("o1", "o2", ...Array.from({ length: 8 }, (_, level) => "h" + level)));
      squares.forEach((each, at) => each.classList.add(shade(shareOf(at))));
      const above = limit(name, 1), there = values.concat(above).filter((each) => each > 0);
      const low = Math.log10(there.reduce((one, other) => Math.min(one, other), Infinity));
      const high = Math.max(low + 1, Math.log10(there.reduce((one, other) => Math.max(one, other), 0)));
      const place = (value) => (value === null ? null : value > 0 ? (Math.log10(value) - low) / (high - low) : 0);
      measure.replaceChildren();
      if (there.length) {
        drawn(measure, "path", { class: "ref", d: curve(values.map(place)) });
        if (above > 0) drawn(measure, "path", { class: "limit", d: `M0 ${98 - 96 * place(above)}H1000` });
      }
      drawn(measure, "path", { class: "now" });
      caption.textContent = there.length ? `${title(name)} by position, logarithmic, from ${short(10 ** low)} to ${short(10 ** high)}` +
        (above > 0 ? `; ┄┄ the limit, ${short(above)}` : "") : "No value above 0.";
    }

    function row(top, at) {
      const [ids, ...columns] = top, [left, right, p, q] = columns.map((each) => each[at]);
      const rank = (values) => 1 + values.filter((each) => each > values[at]).length;
      const made = body.insertRow(), head = made.appendChild(document.createElement("th"));
      head.scope = "row";
      head.className = "id";
      head.textContent = token(ids[at]);
      const bars = drawn(made.insertCell(), "svg", { class: "bars", viewBox: "0 0 100 18", preserveAspectRatio: "none", "aria-hidden": "true" });
      drawn(bars, "rect", { class: "r", y: 1, height: 6, width: 100 * p });
      drawn(bars, "rect", { class: "c", y: 10, height: 6, width: 100 * q });
      for (const text of [short(p), short(q), short(left), short(right), short(left === null || right === null ? null : right - left), rank(columns[0]), rank(columns[1])]) {
        const cell = made.insertCell();
        cell.className = "n";
        cell.textContent = text;
      }
    }

    function go(at) {
      squares[now].classList.remove("at");
      now = Math.min(count - 1, Math.max(0, at));
      squares[now].classList.add("at");
      input.value = now;
      const name = select.value || worst(now), fed = said.fed[now];
      const parts = [`Position ${said.positions[now]}${fed === undefined ? "" : `, fed with ${token(fed)}`}: ${said.verdicts[now]}, likeliest token ${said.ties[now]}.`];
      for (const each of [name, ...names.filter((other) => other !== name)])
        parts.push(`${used(each, now) > 1 ? "✗ " : ""}${title(each)} ${short(said.metrics[each][now])}` +
          (limit(each, now) > 0 ? ` of at most ${short(limit(each, now))}` : "") + ".");
      output.replaceChildren(...parts.map((part) => Object.assign(document.createElement("span"), { textContent: `${part} ` })));
      cells.setAttribute("aria-valuenow", now);
      cells.setAttribute("aria-valuetext", parts[0]);
      for (const chart of [measure, shares]) chart.querySelector(".now").setAttribute("d", `M${1000 * (now + 0.5) / count} 0V100`);
      body.replaceChildren();
      const top = said.tops[now];
      if (top) top[0].forEach((_, at) => row(top, at));
      else body.insertRow().insertCell().textContent = "not told: a side is not finite";
    }

    for (const [kind, part] of [["ref", 3], ["cand", 4]])
      drawn(shares, "path", { class: kind, d: curve(said.tops.map((top) => (top ? top[part][0] : null))) });
    drawn(shares, "path", { class: "now" });
    const wide = () => Math.max(1, squares.filter((each) => each.offsetTop === squares[0].offsetTop).length);
    cells.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowUp: now - wide(), ArrowDown: now + wide(), Home: 0, End: count - 1,
        PageUp: now - 5 * wide(), PageDown: now + 5 * wide() }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
    cells.addEventListener("click", (event) => { if (event.target !== cells) go(squares.indexOf(event.target)); });
    input.addEventListener("change", () => go(Number(input.value) || 0));
    select.addEventListener("change", () => { paint(); go(now); });
    for (const button of box.querySelectorAll("button")) button.addEventListener("click", () => {
      const step = Number(button.dataset.go);
      if (!step) return go(most());
      let at = now + step;
      while (at >= 0 && at < count && said.verdicts[at] !== "FAIL") at += step;
      if (at >= 0 && at < count) go(at);
    });
    paint();
    go(most());
  }

  function grid(table) {
    const says = table.closest("section").querySelector(".says"), cells = [...table.querySelectorAll("td[tabindex]")];
    for (const each of cells) each.classList.add(each.dataset.share === undefined ? "un" : shade(Number(each.dataset.share)));
    const first = table.querySelector("td.x") || cells[0];
    first.tabIndex = 0;
    says.textContent = first.getAttribute("aria-label");
    table.addEventListener("focusin", (event) => {
      for (const each of cells) each.tabIndex = each === event.target ? 0 : -1;
      says.textContent = event.target.getAttribute("aria-label");
    });
    table.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [];
      if (down === undefined) return;
      event.preventDefault();
      let { rowIndex } = event.target.parentElement, { cellIndex } = event.target, found;
      do {
        rowIndex += down;
        cellIndex += right;
        found = table.rows[rowIndex] && rowIndex > 0 && cellIndex > 0 ? table.rows[rowIndex].cells[cellIndex] : null;
      } while (found && !found.hasAttribute("tabindex"));
      if (found) found.focus();
    });
  }

  document.querySelectorAll(".positions").forEach(positions);
  document.querySelectorAll(".grid").forEach(grid);
  addEventListener("beforeprint", () => document.querySelectorAll(".rung details").forEach((each) => { each.open = true; }));
})();
