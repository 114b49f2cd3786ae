const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c98a00", "#3d9bd1", "#7a5cc0", "#7f7f7f"];
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const CURVES = {val_metric: "validation metric", val_loss: "validation loss", loss: "training loss", learning_rate: "learning rate",
  gate_pressure: "gates: pressure (lambda)", gate_penalty: "gates: penalty", gate_undecided: "gates: share undecided"};
const COSTS = {teacher_epoch_equivalents: "test metric against compute", parameters: "test metric against parameters", macs: "test metric against multiply-accumulates"};
const LETTER = 7.7;  // pixels of a letter of the charts, about
const colourOf = index => COLOURS[index % 8], dashOf = index => DASHES[Math.floor(index / 8) % 4];

function draw(tag, attributes, text) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  if (text !== undefined) e.textContent = text;
  return e;
}
/* An empty drawing as wide as its place: a letter is as large on a telephone as on a desk. */
function sheet(svg, height) {
  const width = Math.max(240, svg.parentElement.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  return width;
}
function ticks(low, high, count) {
  const raw = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * step; t += step) found.push(+t.toPrecision(10));
  return found;
}
const range = values => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
const shortened = (text, pixels) => text.length * LETTER <= pixels ? text : `${text.slice(0, Math.max(3, Math.floor(pixels / LETTER) - 1))}\u2026`;
const strategyNames = () => [...new Set(current.runs.map(r => r.strategy))];

/* The value below which this share of sorted values lies, between neighbours in proportion. */
function quantile(values, share) {
  const at = share * (values.length - 1), low = Math.floor(at);
  return values[low] + (at - low) * (values[Math.min(low + 1, values.length - 1)] - values[low]);
}
function showBoxPlot() {
  const groups = strategyNames().map((name, index) => ({name, index, values: current.runs.filter(r => r.strategy === name && r.status === "done")
    .map(r => current.scale * r.test_last).sort((a, b) => a - b)})).filter(g => g.values.length);
  $("boxplot-title").textContent = `Test ${current.metric}${current.scale === 100 ? " (%)" : ""} of the last epoch`;
  const svg = $("boxplot"), isNarrow = svg.parentElement.clientWidth < 520, step = isNarrow ? 44 : Math.max(26, Math.min(56, 360 / groups.length));
  const bottom = 10 + step * groups.length, width = sheet(svg, bottom + 26);
  svg.setAttribute("aria-label", "Box plot: " + groups.map(g => `${g.name} median ${show(quantile(g.values, .5))}, n ${g.values.length}`).join("; "));
  if (!groups.length) return;
  const label = g => `${g.name} (n = ${g.values.length})`, longest = Math.max(...groups.map(g => label(g).length)) * LETTER;
  const left = isNarrow ? 12 : Math.min(longest + 16, .52 * width), [low, high] = range(groups.flatMap(g => [g.values[0], g.values[g.values.length - 1]]));
  const pad = (high - low || Math.abs(high) || 1) * .04, X = x => left + (width - left - 14) * (x - low + pad) / (high - low + 2 * pad);
  for (const t of ticks(low - pad, high + pad, isNarrow ? 4 : 6)) svg.append(draw("line", {x1: X(t), x2: X(t), y1: 6, y2: bottom, class: "grid"}), draw("text", {x: X(t), y: bottom + 17, "text-anchor": "middle"}, show(t)));
  groups.forEach((g, i) => {
    const v = g.values, colour = colourOf(g.index), y = 10 + step * i + (isNarrow ? 31 : step / 2);
    const name = draw("text", isNarrow ? {x: 12, y: y - 13} : {x: left - 8, y: y + 4, "text-anchor": "end"}, shortened(label(g), isNarrow ? width - 24 : left - 12));
    name.append(draw("title", {}, label(g)));
    const [q1, q2, q3] = [.25, .5, .75].map(share => quantile(v, share)), reach = 1.5 * (q3 - q1);
    const inside = v.filter(x => x >= q1 - reach && x <= q3 + reach), [from, to] = range(inside);
    svg.append(name,
      draw("line", {x1: X(from), x2: X(to), y1: y, y2: y, stroke: "currentColor"}),
      draw("rect", {x: X(q1), y: y - 7, width: Math.max(1, X(q3) - X(q1)), height: 14, fill: colour, "fill-opacity": .25, stroke: colour, "stroke-width": 1.5}),
      draw("line", {x1: X(q2), x2: X(q2), y1: y - 7, y2: y + 7, stroke: "currentColor", "stroke-width": 2}),
      ...v.map(x => draw("circle", {cx: X(x), cy: y, r: 3, fill: colour, opacity: .6})));
  });
}

/* What the chart shows: lines of {name, index, xs, ys, lows, highs}, or points. */
function lines(kind) {
  const byStrategy = new Map(strategyNames().map(name => [name, []]));
  for (const run of current.runs) {
    const curve = current.curves[run.run];
    if (curve && curve[kind]) byStrategy.get(run.strategy).push(curve);
  }
  const factor = kind === "val_metric" ? current.scale : 1;
  return [...byStrategy].map(([name, curves], index) => {
    const points = new Map();
    for (const c of curves) c.epoch.forEach((x, i) => { const y = c[kind][i]; if (y !== null) { if (!points.has(x)) points.set(x, []); points.get(x).push(factor * y); } });
    const xs = [...points.keys()].filter(x => points.get(x).length === curves.length).sort((a, b) => a - b);
    return {name, index, xs, ys: xs.map(x => points.get(x).reduce((a, b) => a + b, 0) / curves.length),
      lows: xs.map(x => Math.min(...points.get(x))), highs: xs.map(x => Math.max(...points.get(x)))};
  });
}
function points(cost) {
  const names = strategyNames();  // as the legend has them: some have no finished run
  return current.summary.filter(r => r.model === "last" && !isEmpty(r[cost])).map(r => ({name: r.strategy, index: names.indexOf(r.strategy),
    xs: [r[cost]], ys: [current.scale * r.mean], lows: [current.scale * r.min], highs: [current.scale * r.max]}));
}
/* The last quarter of the epochs alone, where lines that differ by little can be told apart. */
function late(all) {
  const [, last] = range(all.flatMap(l => l.xs));
  return all.map(l => {
    const start = l.xs.findIndex(x => x >= .75 * last), of = key => start < 0 ? [] : l[key].slice(start);
    return {...l, xs: of("xs"), ys: of("ys"), lows: of("lows"), highs: of("highs")};
  });
}
let drawn = null, cursor = null;
function showChart() {
  const kind = $("curve").value, svg = $("chart"), isPoints = kind in COSTS, height = 420, width = sheet(svg, height);
  const all = isPoints ? points(kind) : lines(kind), known = all.filter(l => !hidden.has(l.name) && l.xs.length);
  const shown = !isPoints && $("epochs").value === "late" ? late(known).filter(l => l.xs.length) : known;
  drawn = null;
  $("epochs").disabled = isPoints;
  if (!shown.length) { svg.append(draw("text", {x: width / 2, y: height / 2, "text-anchor": "middle"}, "Nothing to show")); $("readout").textContent = ""; return; }
  const flat = key => shown.flatMap(l => l[key]);
  let [x0, x1] = range(flat("xs")), [y0, y1] = [range(flat("lows"))[0], range(flat("highs"))[1]];
  if (isPoints) { const pad = (x1 - x0 || 1) * .05; x0 -= pad; x1 += pad; }
  const pad = (y1 - y0 || Math.abs(y1) || 1) * .04; y0 -= pad; y1 += pad;
  const isNarrow = width < 520, marks = ticks(y0, y1, isNarrow ? 5 : 7), left = 14 + Math.max(...marks.map(t => show(t).length)) * LETTER;
  const X = x => left + (width - left - 16) * (x - x0) / (x1 - x0 || 1), Y = y => 372 - 354 * (y - y0) / (y1 - y0);
  const axis = isPoints ? kind.replaceAll("_", " ") : "epoch, all phases in a row", unit = current.scale === 100 && (isPoints || kind === "val_metric") ? " (%)" : "";
  for (const t of marks) svg.append(draw("line", {x1: left, x2: width - 16, y1: Y(t), y2: Y(t), class: "grid"}), draw("text", {x: left - 6, y: Y(t) + 4, "text-anchor": "end"}, show(t)));
  for (const t of ticks(x0, x1, isNarrow ? 4 : 7)) svg.append(draw("line", {x1: X(t), x2: X(t), y1: 18, y2: 372, class: "grid"}), draw("text", {x: X(t), y: 390, "text-anchor": "middle"}, show(t)));
  svg.append(draw("text", {x: (left + width) / 2, y: 410, "text-anchor": "middle"}, axis), draw("text", {x: 6, y: 12}, `${isPoints ? `test ${current.metric}` : CURVES[kind].replace("metric", current.metric)}${unit}`));
  for (const l of shown) {
    const colour = colourOf(l.index);
    if (isPoints) {
      svg.append(draw("line", {x1: X(l.xs[0]), x2: X(l.xs[0]), y1: Y(l.lows[0]), y2: Y(l.highs[0]), stroke: colour}));
      const dot = draw("circle", {cx: X(l.xs[0]), cy: Y(l.ys[0]), r: 5, fill: colour});
      dot.append(draw("title", {}, l.name));
      svg.append(dot);
      continue;
    }
    const up = l.xs.map((x, i) => `${X(x)},${Y(l.highs[i])}`), down = l.xs.map((x, i) => `${X(x)},${Y(l.lows[i])}`).reverse();
    svg.append(draw("polygon", {points: [...up, ...down].join(" "), fill: colour, opacity: .1}),
      draw("polyline", {points: l.xs.map((x, i) => `${X(x)},${Y(l.ys[i])}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dashOf(l.index)}));
  }
  const line = draw("line", {x1: 0, x2: 0, y1: 18, y2: 372, stroke: "currentColor", visibility: "hidden"});
  svg.append(line);
  drawn = {xs: [...new Set(flat("xs"))].sort((a, b) => a - b), X, shown, line, x0, x1, left, width};
  cursor = null;
  $("readout").textContent = `Mean and range over the seeds. Arrow keys move the cursor on the chart.`;
}
function moveCursor(x) {
  if (!drawn) return;
  cursor = drawn.xs.reduce((best, v) => Math.abs(v - x) < Math.abs(best - x) ? v : best, drawn.xs[0]);
  for (const end of ["x1", "x2"]) drawn.line.setAttribute(end, drawn.X(cursor));
  drawn.line.setAttribute("visibility", "visible");
  const texts = drawn.shown.map(l => [l.name, l.ys[l.xs.indexOf(cursor)]]).filter(([, y]) => y !== undefined).map(([name, y]) => `${name} ${show(y)}`);
  $("readout").textContent = `${show(cursor, 6)}: ${texts.join(", ")}`;
}
function showLegend() {
  $("legend").replaceChildren(...strategyNames().map((name, index) => {
    const label = make("label"), box = make("input", null, {type: "checkbox"}), swatch = draw("svg", {viewBox: "0 0 24 8", "aria-hidden": "true"});
    swatch.append(draw("line", {x1: 0, x2: 24, y1: 4, y2: 4, stroke: colourOf(index), "stroke-width": 3, "stroke-dasharray": dashOf(index)}));
    box.checked = !hidden.has(name);
    box.onchange = () => { box.checked ? hidden.delete(name) : hidden.add(name); showChart(); remember(); };
    label.append(box, swatch, document.createTextNode(name));
    return label;
  }));
}
$("chart").onpointermove = event => {
  if (!drawn) return;
  const x = event.clientX - $("chart").getBoundingClientRect().left;
  moveCursor(drawn.x0 + (x - drawn.left) / (drawn.width - drawn.left - 16) * (drawn.x1 - drawn.x0));
};
$("chart").onkeydown = event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!drawn || !step) return;
  event.preventDefault();
  const at = cursor === null ? (step > 0 ? -1 : drawn.xs.length) : drawn.xs.indexOf(cursor);
  moveCursor(drawn.xs[Math.max(0, Math.min(drawn.xs.length - 1, at + step))]);
};
