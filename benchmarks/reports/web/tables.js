"use strict";
const $ = id => document.getElementById(id);

/* Everything is written as text; nothing that stands in results can become markup. */
function make(tag, text, attributes = {}) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = String(text);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}
const isEmpty = value => value === null || value === undefined || value === "";
const show = (value, digits = 4) => isEmpty(value) ? "" : typeof value === "number" ? String(+value.toPrecision(digits)) : String(value);
const metric = value => isEmpty(value) ? "" : (current.scale * value).toFixed(current.scale === 100 ? 2 : 4);

/* By a table's id: which column sorts it, and what it shows now, for copies. */
const sorting = {}, shownTables = {};

function sorted(rows, column, down) {
  if (!column) return rows;
  const value = column.value, sign = down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = value(a), y = value(b);
    if (isEmpty(x) || isEmpty(y)) return isEmpty(x) - isEmpty(y);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true}));
  });
}

/* Columns that say the same in every row, if there are several rows; the first one and `fixed` ones stay. */
function foldedColumns(columns, rows) {
  if (rows.length < 2 || !$("fold").checked) return [];
  return columns.slice(1).filter(c => !c.fixed && rows.every(row => c.value(row) === c.value(rows[0]) || isEmpty(c.value(row)) && isEmpty(c.value(rows[0]))));
}

/* A table: columns are {name, value: of a row, write: how it is written, kind: class}. Clicks on heads sort. */
function table(id, columns, rows, {onRow, isBest, caption} = {}) {
  const element = $(id), state = sorting[id] || (sorting[id] = {column: null, down: false});
  const away = foldedColumns(columns, rows), kept = columns.filter(c => !away.includes(c));
  const again = () => table(id, columns, rows, {onRow, isBest, caption});
  const written = (column, row) => (column.write || show)(column.value(row));
  const note = $(`${id}-note`), same = away.filter(c => !isEmpty(c.value(rows[0])));
  note.textContent = [same.length ? `The same in every row: ${same.map(c => `${c.name} ${written(c, rows[0])}`).join(", ")}.` : "", caption || ""].filter(Boolean).join(" ");
  const head = make("tr");
  for (const column of kept) {
    const th = make("th", null, {scope: "col", class: column.kind || ""});
    if (state.column === column.name) th.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    const button = make("button", column.name, {type: "button"});
    button.onclick = () => {
      state.down = state.column === column.name ? !state.down : false;
      state.column = column.name;
      again();
      element.querySelectorAll("th button")[kept.indexOf(column)].focus();
      remember();
    };
    th.append(button);
    head.append(th);
  }
  const inOrder = sorted(rows, columns.find(c => c.name === state.column), state.down), body = make("tbody");
  for (const row of inOrder) {
    const tr = make("tr", null, isBest && isBest(row) ? {class: "best"} : {});
    kept.forEach((column, i) => {
      const td = make("td", null, column.kind ? {class: column.kind} : {});
      if (i === 0 && onRow) {
        const button = make("button", written(column, row), {type: "button"});
        button.onclick = () => onRow(row);
        td.append(button);
      } else td.textContent = written(column, row);
      if (row.status === "failed") td.classList.add("bad");
      tr.append(td);
    });
    body.append(tr);
  }
  const thead = make("thead");
  thead.append(head);
  element.replaceChildren(...rows.length ? [thead, body] : []);
  shownTables[id] = {
    cells: [kept.map(c => c.name), ...inOrder.map(row => kept.map(c => written(c, row)))],
    raw: [columns.map(c => c.name), ...inOrder.map(row => columns.map(c => c.value(row)))],
    isLeft: kept.map((c, i) => i === 0 || /left/.test(c.kind || "")), isBold: [false, ...inOrder.map(row => Boolean(isBest && isBest(row)))], note: note.textContent,
  };
}

const LATEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}"};
const latexText = text => text.replace(/[\\~^<>|&%$#_{}]/g, c => LATEX[c] || `\\${c}`).replace(/\s+/g, " ");
function latexOf({cells, isLeft, isBold, note}) {
  const line = (row, i) => row.map(text => latexText(text)).map(text => isBold[i] && text ? `\\textbf{${text}}` : text).join(" & ") + " \\\\";
  const [head, ...rows] = cells.map(line);
  const remark = note ? [`% ${note.replace(/\s+/g, " ")}`] : [];
  return [...remark, `\\begin{tabular}{${isLeft.map(left => left ? "l" : "r").join("")}}`, "\\toprule", head, "\\midrule", ...rows, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

/* A spreadsheet would run a text that begins as a formula: it gets an apostrophe, as in our CSV files. */
function csvOf({raw}) {
  const cell = value => {
    if (isEmpty(value)) return "";
    const text = typeof value === "string" && /^'*[=+\-@\t\r\n]/.test(value) && isNaN(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return raw.map(row => row.map(cell).join(",") + "\r\n").join("");
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no permission, or no such thing: the way that older browsers have
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.dataset.text || (button.dataset.text = button.textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
  button.focus();
}
function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  make("a", null, {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
function addTools() {
  for (const place of document.querySelectorAll("[data-tools]")) {
    const id = place.dataset.tools;
    const latex = make("button", "Copy as LaTeX", {type: "button", id: `${id}-latex`}), csv = make("button", "Download CSV", {type: "button", id: `${id}-csv`});
    latex.onclick = () => copy(latexOf(shownTables[id]), latex);
    csv.onclick = () => download(`${id}-${current.name}.csv`, csvOf(shownTables[id]));
    place.append(latex, csv);
  }
}
