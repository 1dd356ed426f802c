
"use strict";
// Reads and moves what is on the page; never builds HTML from text.
const by = (id) => document.getElementById(id);

function gallery() {
  const box = by("cards");
  if (!box) return;
  const cards = [...box.children];
  const number = (card, key) => (card.dataset[key] === "" ? null : Number(card.dataset[key]));
  const compare = (key, down) => (a, b) => {
    if (key === "category") return a.dataset.category.localeCompare(b.dataset.category) * (down ? -1 : 1);
    const [x, y] = [number(a, key), number(b, key)];
    // What has no value stays at the end, whichever way it is sorted.
    if (x === null || y === null) return (x === null) - (y === null);
    return down ? y - x : x - y;
  };
  let limit = 48; // a page that is quick to look over; the button shows the rest
  const update = () => {
    const order = [...cards].sort(compare(by("sort").value, by("down").checked));
    const [group, category, words] = [by("group").value, by("category").value, by("find").value.trim().toLowerCase()];
    let found = 0;
    for (const card of order) {
      const fits =
        (group === "" || card.dataset.group === group) &&
        (category === "" || card.dataset.category === category) &&
        card.dataset.find.toLowerCase().includes(words);
      found += fits ? 1 : 0;
      card.hidden = !fits || found > limit;
    }
    box.append(...order);
    by("shown").textContent = Math.min(found, limit) + " of " + found;
    by("more").hidden = found <= limit;
    by("more").textContent = "Show all " + found;
    by("nothing").hidden = found > 0;
  };
  by("more").addEventListener("click", () => { limit = cards.length; update(); });
  for (const id of ["sort", "down", "group", "category"]) by(id).addEventListener("change", update);
  by("find").addEventListener("input", update);
  by("controls").addEventListener("submit", (event) => event.preventDefault());
  // "Estimate off by" is worth a look where it is large.
  by("sort").addEventListener("change", () => { by("down").checked = by("sort").value === "gap"; update(); });
  for (const name of ["truth", "predicted", "box"]) {
    const toggle = by("show-" + name);
    if (toggle) toggle.addEventListener("change", () => document.body.classList.toggle("hide-" + name, !toggle.checked));
  }
  const enlarge = (card) => {
    const copy = card.cloneNode(true);
    copy.removeAttribute("tabindex");
    by("enlarged").replaceChildren(copy);
    by("large").showModal();
  };
  box.addEventListener("click", (event) => { const card = event.target.closest(".card"); if (card) enlarge(card); });
  box.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches(".card")) enlarge(event.target); });
  by("large").addEventListener("click", (event) => { if (event.target === by("large")) by("large").close(); });
  update();
}

function tables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent;
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => value(a).localeCompare(value(b), undefined, { numeric: true }));
        const numeric = "value" in (body.rows[0]?.cells[at].dataset ?? {});
        if (numeric) rows.sort((a, b) => Number(value(a)) - Number(value(b)));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  }
  const find = by("find-failure");
  if (find) {
    find.addEventListener("input", () => {
      for (const row of by("failed").tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(find.value.trim().toLowerCase());
    });
  }
}

gallery();
tables();
