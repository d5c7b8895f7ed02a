"use strict";

// What a cell is sorted by: its number where it has one, else its text.
function orderOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.order === undefined ? cell.textContent : Number(cell.dataset.order);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
}

// Numbers begin with the largest, names with the first of the alphabet; a second press turns the order around.
function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const isNumber = heads[column].classList.contains("number");
  const now = heads[column].getAttribute("aria-sort");
  const next = now ? (now === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => sign * compare(orderOf(a, column), orderOf(b, column)));
  table.tBodies[0].append(...rows);
}

// Without this script the heads stay plain text, so no button does nothing.
document.querySelectorAll("table.sortable").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, column));
    head.append(button);
  });
});

// One clip at a time.
document.addEventListener(
  "play",
  (event) => document.querySelectorAll("audio").forEach((clip) => clip !== event.target && clip.pause()),
  true,
);
