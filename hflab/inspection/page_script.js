"use strict";
const STEPS = 10000; // weights travel as whole numbers of ten-thousandths
// from here on a number is written in the other colour, on a dark page and on a light one
const MIDDLING = 0.3;
const STRONG = 0.5;

// Every table, also without a map to choose: what is pointed at is told and marked, by mouse, touch or arrow keys.
function explain(section, tell) {
  const readout = section.querySelector(".readout");
  let marked = [];
  const point = (cell) => {
    marked.forEach((element) => element.classList.remove("on"));
    const row = cell.parentElement;
    const table = cell.closest("table");
    marked = [cell, row.cells[0], table.tHead.rows[0].cells[cell.cellIndex]];
    marked.forEach((element) => element.classList.add("on"));
    const [from, to] = [row.cells[0].innerText.trim(), marked[2].innerText.trim()];
    readout.replaceChildren(...tell(from, to, cell));
  };
  section.querySelectorAll("table").forEach((table) => {
    const of = (event) => event.target.closest("tbody td");
    table.addEventListener("pointerover", (event) => of(event) && point(of(event)));
    table.addEventListener("click", (event) => of(event) && point(of(event)));
    table.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const here = marked.length && table.contains(marked[0]) ? marked[0] : null;
      const rows = table.tBodies[0].rows;
      const row = here ? Math.min(Math.max(here.parentElement.sectionRowIndex + step[0], 0), rows.length - 1) : 0;
      const column = here ? Math.min(Math.max(here.cellIndex + step[1], 1), rows[0].cells.length - 1) : 1;
      point(rows[row].cells[column]);
      rows[row].cells[column].scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  });
  const digits = section.querySelector(".digits");
  digits.hidden = false;
  digits.querySelector("input").addEventListener("change", (event) => {
    section.querySelectorAll("table").forEach((table) => table.classList.toggle("numbers", event.target.checked));
  });
  return () => marked.length && point(marked[0]);
}

function bold(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}

// The numbers of one kind of attention: weights[layer][head] is a map; after the last head stands the mean of all, if there are several.
function readMaps(data) {
  const bytes = Uint8Array.from(atob(data.weights), (sign) => sign.charCodeAt(0));
  const numbers = new Uint16Array(bytes.buffer);
  const [layers, heads, rows, columns] = data.shape;
  const size = rows * columns;
  return Array.from({ length: layers }, (_, layer) => {
    const maps = Array.from({ length: heads }, (_, head) =>
      Float32Array.from(numbers.subarray((layer * heads + head) * size, (layer * heads + head + 1) * size), (number) => number / STEPS));
    if (heads > 1) maps.push(Float32Array.from(maps[0], (_, place) => maps.reduce((sum, map) => sum + map[place], 0) / heads));
    return maps;
  });
}

function colorScale() {
  const style = getComputedStyle(document.documentElement);
  const stops = ["--c0", "--c1", "--c2"].map((name) => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16)));
  return (weight) => {
    const place = 2 * Math.sqrt(weight);
    const [low, high] = place < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    const share = place < 1 ? place : place - 1;
    return low.map((value, index) => value + share * (high[index] - value));
  };
}

function paint(canvas, map, [rows, columns]) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const color = colorScale();
  map.forEach((weight, place) => image.data.set([...color(weight), 255], 4 * place));
  context.putImageData(image, 0, 0);
}

function label(text, className = "") {
  const element = document.createElement("span");
  element.textContent = text;
  element.className = className;
  return element;
}

function addChooser(section, maps, shape, show) {
  const chooser = section.querySelector(".chooser");
  if (!chooser) return;
  const heads = maps[0].length;
  const names = Array.from({ length: heads }, (_, head) => (head === shape[1] ? "mean" : `head ${head + 1}`));
  chooser.style.setProperty("--mean", heads - shape[1]);
  chooser.append(label(""), ...names.map((name) => label(name)));
  maps.forEach((layer, number) => {
    chooser.append(label(`layer ${number + 1}`, "side"));
    layer.forEach((map, head) => {
      const button = document.createElement("button");
      const name = `Layer ${number + 1}, ${head === shape[1] ? "mean of the heads" : names[head]}`;
      button.type = "button";
      button.title = name;
      button.setAttribute("aria-label", name);
      button.setAttribute("aria-pressed", String(number === 0 && head === 0));
      const canvas = document.createElement("canvas");
      const draw = () => paint(canvas, map, shape.slice(2));
      draw();
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
      button.append(canvas);
      button.addEventListener("click", () => {
        chooser.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        show(map, name);
      });
      chooser.append(button);
    });
  });
  chooser.hidden = false;
}

function fill(table, map, [rows, columns], hidesLater) {
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      if (hidesLater && column > row) continue;
      const weight = map[row * columns + column];
      const cell = table.tBodies[0].rows[row].cells[column + 1];
      cell.textContent = weight.toFixed(4);
      cell.style.setProperty("--c", Math.sqrt(weight).toFixed(3));
      cell.className = weight >= STRONG ? "strong" : weight >= MIDDLING ? "middling" : "";
    }
  }
}

document.querySelectorAll("section.attention").forEach((section) => {
  const data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
  const maps = readMaps(data);
  const retell = explain(section, (from, to, cell) =>
    cell.classList.contains("later")
      ? [bold(from), " cannot see ", bold(to), ", which comes later."]
      : [bold(from), ` (row ${cell.parentElement.sectionRowIndex + 1}) → `, bold(to), ` (column ${cell.cellIndex}): `, bold(cell.textContent)]);
  addChooser(section, maps, data.shape, (map, name) => {
    section.querySelector(".which").textContent = name;
    fill(section.querySelector("table"), map, data.shape.slice(2), data.hidesLater);
    retell(); // the mark goes back to where it was
  });
});

document.querySelectorAll("section.trace").forEach((section) => {
  explain(section, (from, to, cell) => [bold(to), `: ${from} `, bold(cell.textContent)]);
});
