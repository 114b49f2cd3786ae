let data = JSON.parse($("data").textContent);
let current, hidden = new Set();

/* Two runs side by side. */
function flat(content, prefix = "") {
  if (Array.isArray(content)) return [[prefix, JSON.stringify(content)]];
  if (content === null || typeof content !== "object" || !Object.keys(content).length) return [[prefix, content]];
  return Object.entries(content).flatMap(([key, value]) => flat(value, prefix ? `${prefix}.${key}` : key));
}
/* What a cell says, where that is JSON, as that of `extras`; texts that are none as they are. */
function parsed(value) {
  if (typeof value !== "string" || !/^[[{]/.test(value)) return value;
  try { return JSON.parse(value); } catch { return value; }
}
const CONFIGURATION = ["suite", "strategy", "seed", "scale", "match", "factor", "examples", "backend", "precision", "devices"];
function facts(run) {
  const configuration = new Map(CONFIGURATION.filter(name => !isEmpty(run[name])).map(name => [name, run[name]]));
  for (const [key, value] of [...flat(data.settings[run.definition] || {}), ...flat(data.settings[run.settings] || {})]) configuration.set(key, value);
  const rest = Object.entries(run).filter(([name]) => !CONFIGURATION.includes(name) && !["definition", "settings"].includes(name))
    .flatMap(([name, value]) => flat(parsed(value), name));
  return {configuration, results: new Map(rest)};
}
const runsById = () => new Map(data.protocols.flatMap(p => p.runs.map(r => [r.run, r])));
function showPair() {
  const byId = runsById(), pair = [byId.get($("first").value), byId.get($("second").value)];
  $("pair").replaceChildren();
  shownTables.pair = {cells: [["", "first", "second"]], raw: [["", "first", "second"]], isLeft: [true, true, true], isBold: [false], note: ""};
  if (!pair[0] || !pair[1]) { $("pair-note").textContent = "Choose two runs: what differs in their configurations is listed first."; return; }
  const [a, b] = pair.map(facts), head = make("tr"), body = make("tbody");
  const titles = pair.map(r => `${r.strategy} seed ${r.seed}`);
  head.append(...["", ...titles].map(text => make("th", text, {scope: "col", class: "left"})));
  shownTables.pair.cells[0] = shownTables.pair.raw[0] = ["", ...titles];
  const add = (title, kind, differs) => {
    const names = [...new Set([...a[kind].keys(), ...b[kind].keys()])].filter(name => (String(a[kind].get(name)) !== String(b[kind].get(name))) === differs);
    const part = make("tr", null, {class: "part"});
    part.append(make("th", `${title} (${names.length})`, {colspan: "3", scope: "colgroup"}));
    body.append(part);
    for (const name of names) {
      const values = [a, b].map(of => of[kind].has(name) ? of[kind].get(name) : "\u2013"), tr = make("tr");
      tr.append(make("th", name, {scope: "row", class: "left"}), ...values.map(value => make("td", show(value, 6), {class: "left wrap"})));
      body.append(tr);
      shownTables.pair.cells.push([name, ...values.map(value => show(value, 6))]);
      shownTables.pair.raw.push([name, ...values]);
      shownTables.pair.isBold.push(false);
    }
    return names.length;
  };
  const count = add("Configuration: what differs", "configuration", true);
  add("Results: what differs", "results", true);
  add("Configuration: what is the same", "configuration", false);
  $("pair-note").textContent = count ? "" : "One configuration: these are the same run, or tables without their folders do not tell.";
  const thead = make("thead");
  thead.append(head);
  $("pair").replaceChildren(thead, body);
}
function fillPairs() {
  for (const id of ["first", "second"]) {
    const before = $(id).value;
    $(id).replaceChildren(make("option", "no run", {value: ""}), ...data.protocols.map(p => {
      const group = make("optgroup", null, {label: p.text});
      group.append(...p.runs.map(r => make("option", `${r.strategy} seed ${r.seed}${r.status === "done" ? "" : `, ${r.status}`}`, {value: r.run})));
      return group;
    }));
    $(id).value = before;
  }
}

/* Tables. */
function showSummary() {
  const filter = $("filter-summary").value.toLowerCase(), isBetter = (a, b) => current.higher_is_better ? a > b : a < b;
  const best = {};
  for (const r of current.summary) if (!isEmpty(r.mean) && (best[r.model] === undefined || isBetter(r.mean, best[r.model]))) best[r.model] = r.mean;
  table("summary", [
    {name: "strategy", value: r => r.strategy}, {name: "epoch", value: r => r.model, kind: "left", fixed: true},
    ...["n", "failed", "unfinished"].map(name => ({name, value: r => r[name]})),
    ...["mean", "std", "median", "min", "max"].map(name => ({name, value: r => r[name], write: metric})),
    {name: "validation", value: r => r.validation, write: metric}, {name: "teachers (validation)", value: r => r.validation_teachers, write: metric},
    {name: "epochs", value: r => r.epochs}, {name: "teacher-epoch equivalents", value: r => r.teacher_epoch_equivalents},
    {name: "seconds", value: r => r.seconds}, {name: "parameters", value: r => r.parameters, write: v => show(v, 7)}, {name: "MACs", value: r => r.macs, write: v => show(v, 7)},
  ], current.summary.filter(r => r.strategy.toLowerCase().includes(filter)), {
    isBest: r => current.summary.length > 2 && r.mean === best[r.model],
    caption: "The best mean of last and of best epochs is marked; what may be claimed of it, the comparisons say.",
  });
}
function showPixels() {
  const [[, , ...classes], ...rows] = current.classes, alt = "Test images, their labels, and what networks say of them before and after";
  $("pixels").hidden = !rows.length;
  table("classes", [
    {name: "strategy", value: r => r[0]}, {name: "n", value: r => +r[1], fixed: true},
    ...classes.map((name, i) => ({name, value: r => r[i + 2] === "" ? null : +r[i + 2], write: v => isEmpty(v) ? "" : v.toFixed(2), fixed: true})),
  ], rows);
  $("pictures").replaceChildren(...(current.pictures ? [make("img", null, {src: current.pictures, alt})] : []));
}
function showComparisons() {
  table("comparisons", [
    {name: "against", value: r => r.second}, {name: "first", value: r => r.first, kind: "left"}, {name: "family", value: r => r.family, kind: "left"}, {name: "n", value: r => r.n},
    {name: "mean difference", value: r => r.mean, write: metric}, {name: "95 % from", value: r => r.low, write: metric}, {name: "to", value: r => r.high, write: metric},
    {name: "rank-biserial r", value: r => r.effect, write: v => show(v, 2)}, {name: "p", value: r => r.p, write: v => show(v, 2)}, {name: "p, Holm", value: r => r.holm, write: v => show(v, 2)},
    {name: "what may be said", value: r => r.claim, kind: "wrap left", fixed: true},
  ], current.comparisons, {caption: current.comparisons.length ? "" : "Nothing is compared."});
}
function showRuns() {
  const words = $("filter-runs").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = current.runs.filter(r => words.every(w => `${r.strategy} ${r.seed} ${r.status} ${r.commit} ${r.run}`.toLowerCase().includes(w)));
  $("count").textContent = `${rows.length} of ${current.runs.length}`;
  table("runs", [
    {name: "strategy", value: r => r.strategy}, {name: "seed", value: r => r.seed, fixed: true}, {name: "status", value: r => r.status, kind: "left", fixed: true},
    {name: "test, last", value: r => r.test_last, write: metric, fixed: true}, {name: "test, best", value: r => r.test_best, write: metric},
    {name: "validation, last", value: r => r.validation_last, write: metric}, {name: "epochs", value: r => r.epochs}, {name: "teacher-epoch equivalents", value: r => r.teacher_epoch_equivalents},
    {name: "seconds", value: r => r.seconds}, {name: "commit", value: r => r.commit, kind: "left"}, {name: "error", value: r => r.error, kind: "wrap left"},
  ], rows, {onRow: showDetails});
}
let detailed = null;
function showDetails(run) {
  detailed = run;
  $("details-title").textContent = `${run.strategy} seed ${run.seed}`;
  $("details-table").replaceChildren(...Object.entries(run).filter(([name]) => !["definition", "settings"].includes(name)).map(([name, value]) => {
    const tr = make("tr");
    tr.append(make("th", name, {scope: "row", class: "left"}), make("td", value));
    return tr;
  }));
  const found = {...data.settings[run.definition], ...data.settings[run.settings]};
  $("definition").textContent = Object.keys(found).length ? JSON.stringify(found, null, 1) : "It stands in the suite's file of that commit.";
  $("details").showModal();
}
function compareDetailed(id) {
  $(id).value = detailed.run;
  $("details").close();
  showPair();
  remember();
  $(id).focus();
}
function showProblems() {
  const problems = current.runs.filter(r => r.status === "failed").map(r => `${r.strategy} seed ${r.seed} failed: ${r.error || "no error was written"}`);
  const open = current.runs.filter(r => r.status === "unfinished").length;
  const items = [...problems, ...data.problems, ...(open ? [`${open} runs are unfinished.`] : []), ...current.missing.map(text => `No run of ${text}`)];
  $("problems").replaceChildren(...items.map(text => make("p", text, {class: "bad"})));
}

/* The view is in the address: a link restores it. */
const firstEight = () => new Set(strategyNames().slice(8));  // more lines than colours are hard to read
function remember() {
  const view = new URLSearchParams(), usual = firstEight();
  const keep = (key, value, otherwise = "") => { if (value !== otherwise) view.append(key, value); };
  keep("protocol", current.name, data.protocols[0].name);
  keep("curve", $("curve").value, $("curve").options[0].value);
  keep("epochs", $("epochs").value, "all");
  keep("strategies", $("filter-summary").value);
  keep("runs", $("filter-runs").value);
  keep("fold", $("fold").checked ? "" : "no");
  if (hidden.size !== usual.size || [...hidden].some(name => !usual.has(name))) {
    for (const name of strategyNames()) if (hidden.has(name) !== usual.has(name)) view.append(hidden.has(name) ? "hide" : "show", name);
  }
  for (const [id, {column, down}] of Object.entries(sorting)) if (column) view.append("sort", `${id}:${down ? "down" : "up"}:${column}`);
  for (const id of ["first", "second"]) keep(id, $(id).value);
  keep("theme", document.documentElement.dataset.theme || "");
  history.replaceState(null, "", `#${view}`);
}
function choose(view = new URLSearchParams()) {
  current = data.protocols[$("protocol").selectedIndex];
  const found = new Set(Object.values(current.curves).flatMap(c => Object.keys(c)));
  const options = [...Object.entries(CURVES).filter(([name]) => found.has(name)), ...Object.entries(COSTS)];
  $("curve").replaceChildren(...options.map(([value, text]) => make("option", text.replace("metric", current.metric), {value})));
  if (options.some(([value]) => value === view.get("curve"))) $("curve").value = view.get("curve");
  hidden = firstEight();
  for (const name of view.getAll("show")) hidden.delete(name);
  for (const name of view.getAll("hide")) if (strategyNames().includes(name)) hidden.add(name);
  $("protocol-text").textContent = current.text;
  $("verdict").textContent = current.verdict;
  $("methods").replaceChildren(...current.methods.map(([head, text]) => { const p = make("p"); p.append(make("strong", `${head} `), document.createTextNode(text)); return p; }));
  showProblems(); showBoxPlot(); showSummary(); showPixels(); showComparisons(); showRuns(); showLegend(); showChart(); showPair();
}
function restore() {
  const view = new URLSearchParams(location.hash.slice(1));
  if (["light", "dark"].includes(view.get("theme"))) document.documentElement.dataset.theme = view.get("theme");
  $("protocol").selectedIndex = Math.max(0, data.protocols.findIndex(p => p.name === view.get("protocol")));
  $("epochs").value = view.get("epochs") === "late" ? "late" : "all";
  $("filter-summary").value = view.get("strategies") || "";
  $("filter-runs").value = view.get("runs") || "";
  $("fold").checked = view.get("fold") !== "no";
  for (const state of Object.values(sorting)) state.column = null;
  for (const text of view.getAll("sort")) {
    const [id, direction, ...column] = text.split(":");
    if (["summary", "classes", "comparisons", "runs"].includes(id)) sorting[id] = {column: column.join(":"), down: direction === "down"};
  }
  for (const id of ["first", "second"]) $(id).value = view.get(id) || "";
  choose(view);
}
/* Show what `data` holds, in the view that the address tells. */
function refresh() {
  $("title").textContent = document.title = data.title;
  if (!data.protocols.length) { $("problems").replaceChildren(make("p", "There are no runs.", {class: "bad"})); return; }
  $("protocol").replaceChildren(...data.protocols.map(p => make("option", p.text)));
  fillPairs();
  restore();
}

addTools();
$("protocol").onchange = () => { choose(); remember(); };
for (const id of ["curve", "epochs"]) $(id).onchange = () => { showChart(); remember(); };
$("filter-summary").oninput = () => { showSummary(); remember(); };
$("filter-runs").oninput = () => { showRuns(); remember(); };
$("fold").onchange = () => { showSummary(); showComparisons(); showRuns(); remember(); };
for (const id of ["first", "second"]) $(id).onchange = () => { showPair(); remember(); };
$("none").onclick = () => { hidden = new Set(strategyNames()); showLegend(); showChart(); remember(); };
$("all").onclick = () => { hidden = new Set(); showLegend(); showChart(); remember(); };
$("close").onclick = () => $("details").close();
$("as-first").onclick = () => compareDetailed("first");
$("as-second").onclick = () => compareDetailed("second");
$("link").onclick = () => { remember(); copy(location.toString(), $("link")); };
$("theme").onclick = () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  if (current) remember();
};
addEventListener("hashchange", restore);
refresh();
let seen = innerWidth;
addEventListener("resize", () => { if (innerWidth !== seen && current) { seen = innerWidth; showBoxPlot(); showChart(); } });
document.documentElement.dataset.ready = "yes";
