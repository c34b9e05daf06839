// The plot of the front, and that of the hypervolume.
const plottable = () => data.metrics.filter((m) => data.points.some((p) => value(p, m.name) !== null));

function range(metric) {
  const all = [...data.points, data.baseline].map((p) => value(p, metric)).filter((v) => v !== null);
  return [Math.min(...all), Math.max(...all)];
}

function fillAxes() {
  for (const axis of ["x", "y"]) {
    const select = byId(`${axis}-axis`);
    select.replaceChildren(...plottable().map((m) => make("option", { value: m.name }, m.label)));
    select.value = state[axis];
  }
}

function offerLog(axis) {
  const box = byId(`${axis}-log`);
  box.disabled = !(range(state[axis])[0] > 0);
  if (box.disabled) state[`${axis}Log`] = false;
  box.checked = state[`${axis}Log`];
}

function suggestLog(axis) {
  const [low, high] = range(state[axis]);
  state[`${axis}Log`] = low > 0 && high / low > 30;
}

/** Points that no other beats on both axes, from the best x to the worst: then "hv" steps bound what was reached. */
function staircase() {
  const sign = (name) => (metrics.get(name).direction === "maximize" ? -1 : 1);
  const known = data.points
    .map((p) => [value(p, state.x), value(p, state.y)])
    .filter(([x, y]) => x !== null && y !== null)
    .sort((a, b) => sign(state.x) * (a[0] - b[0]) || sign(state.y) * (a[1] - b[1]));
  let best = Infinity;
  return known.filter(([, y]) => {
    const better = sign(state.y) * y < best;
    if (better) best = sign(state.y) * y;
    return better;
  });
}

/** 95 % ranges; in a crowd only that of the selected point. */
function errorBars(chosen, metric) {
  const shown = (p) => chosen.length <= LABELLED || String(p.id) === state.point;
  const found = chosen.map((p) => (shown(p) ? figure(p, metric) : { low: null, high: null }));
  return {
    type: "data", symmetric: false, thickness: 1, width: 3, color: colour("trial"),
    array: found.map((f) => (f.high === null ? 0 : f.high - f.value)),
    arrayminus: found.map((f) => (f.low === null ? 0 : f.value - f.low)),
  };
}

function hover(point, title) {
  const lines = data.metrics.filter((m) => figure(point, m.name)).map((m) => {
    const f = figure(point, m.name);
    const gain = point.ratios[m.name] ? `, ${point.ratios[m.name].short}` : "";
    return escaped(`${m.label} ${f.text}${f.range ? ` (${f.range})` : ""}${gain}`);
  });
  return [`<b>${escaped(title)}</b>`, ...lines, ...point.flags.map((f) => escaped(f))].join("<br>");
}

function markers(chosen, extra) {
  return {
    type: "scatter", hoverinfo: "text",
    x: chosen.map((p) => value(p, state.x)), y: chosen.map((p) => value(p, state.y)),
    error_x: errorBars(chosen, state.x), error_y: errorBars(chosen, state.y), ...extra,
  };
}

function traces() {
  const known = (p) => value(p, state.x) !== null && value(p, state.y) !== null;
  const front = data.points.filter(known);
  const tried = data.trials.filter((t) => state.x in t.values && state.y in t.values);
  const steps = staircase();
  const out = [];
  if (tried.length) {
    out.push({
      type: "scatter", mode: "markers", name: "other trials (validation)", hoverinfo: "text",
      x: tried.map((t) => t.values[state.x]), y: tried.map((t) => t.values[state.y]),
      hovertext: tried.map((t) => [`<b>Trial ${escaped(t.number)}</b> ${escaped(t.origin)}${t.stopped ? ", stopped early: quality is an estimate" : ""}`, ...(t.why ? [escaped(t.why)] : []), ...t.shown.map(escaped)].join("<br>")),
      marker: {
        color: colour("trial"), size: 6, opacity: 0.38, symbol: tried.map((t) => (t.stopped ? "circle-open" : "circle")),
      },
    });
  }
  out.push({
    type: "scatter", mode: "lines", name: "best for these axes", hoverinfo: "skip", showlegend: false,
    x: steps.map((s) => s[0]), y: steps.map((s) => s[1]),
    line: { shape: "hv", color: colour("accent"), width: 1.5 }, opacity: 0.55,
  });
  out.push(markers(front, {
    mode: front.length <= LABELLED ? "markers+text" : "markers", name: "front",
    customdata: front.map((p) => String(p.id)), text: front.map((p) => escaped(p.id)),
    textposition: "top left", textfont: { size: 12, color: colour("ink") }, cliponaxis: false,
    hovertext: front.map((p) => hover(p, `Point ${p.id}, trial ${p.trial}`)),
    marker: {
      color: colour("accent"), opacity: 1, size: 10, line: { width: 1, color: colour("card") },
    },
  }));
  const chosen = front.filter((p) => String(p.id) === state.point);
  out.push({
    type: "scatter", mode: "markers", name: "selected", hoverinfo: "skip", showlegend: false, cliponaxis: false,
    x: chosen.map((p) => value(p, state.x)), y: chosen.map((p) => value(p, state.y)),
    marker: { symbol: "circle-open", size: 18, color: colour("chosen"), line: { width: 3.5 } },
  });
  if (known(data.baseline)) {
    out.push(markers([data.baseline], {
      mode: "markers", name: "baseline", hovertext: [hover(data.baseline, "Baseline")],
      marker: { symbol: "diamond", size: 12, color: colour("baseline") },
    }));
  }
  return out;
}

/** Where quality is worth looking at: without the points that lie so low that the rest would shrink to a line. */
function focus() {
  if (state.y !== data.quality) return null;
  const all = [...data.points, data.baseline].map((p) => figure(p, state.y)).filter((f) => (f?.value ?? null) !== null);
  all.sort((a, b) => a.value - b.value);
  const [q1, q3] = [0.25, 0.75].map((q) => all[Math.round(q * (all.length - 1))]?.value);
  const inside = all.filter((f) => Math.abs(f.value - (q1 + q3) / 2) <= 3.5 * (q3 - q1)); // three times the spread beyond it
  if (!inside.length) return null;
  const low = Math.min(...inside.map((f) => f.low ?? f.value));
  const high = Math.max(...inside.map((f) => f.high ?? f.value));
  if (high === low) return null;
  // Trials that are no answer may not flatten the front either: those within one more height of it stay in view.
  const tried = data.trials.map((t) => t.values[state.y]).filter((v) => typeof v === "number");
  const near = tried.filter((v) => v >= low - (high - low) && v <= high + (high - low));
  const far = tried.length - near.length;
  if (inside.length === all.length && !far) return null;
  const [bottom, top] = [Math.min(low, ...near), Math.max(high, ...near)];
  const margin = 0.06 * (top - bottom);
  return { range: [bottom - margin, top + margin], points: all.length - inside.length, trials: far };
}

function outsideText(near) {
  const counted = (n, word) => (n ? `${n} ${n === 1 && word.endsWith("s") ? word.slice(0, -1) : word}` : "");
  const parts = [counted(near.points, "points"), counted(near.trials, "other trials")].filter(Boolean);
  return `${parts.join(" and ")} ${near.points + near.trials === 1 ? "lies" : "lie"} outside this range.`;
}

function axisLayout(metric, log) {
  const better = metric.direction === "maximize" ? "more is better" : "less is better";
  return {
    title: { text: escaped(`${metric.label}${metric.measure} (${better})`), standoff: 12 },
    type: log ? "log" : "linear", tickformat: metric.tick, automargin: true, nticks: 8, minorloglabels: "complete",
    gridcolor: colour("line"), zeroline: false, linecolor: colour("line"),
  };
}

function drawScatter(width) {
  const focused = focus();
  const near = state.whole ? null : focused;
  byId("whole-label").hidden = focused === null;
  byId("outside").textContent = near ? outsideText(near) : "";
  const layout = {
    ...base(), width, margin: { l: 56, r: 18, t: 34, b: 52 },
    xaxis: axisLayout(metrics.get(state.x), state.xLog), yaxis: axisLayout(metrics.get(state.y), state.yLog),
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    uirevision: [state.whole, state.x, state.y, state.xLog, state.yLog, state.split].join(),
  };
  if (near) layout.yaxis.range = state.yLog ? near.range.map((v) => Math.log10(Math.max(v, range(state.y)[0]))) : near.range;
  return Plotly.react("scatter", traces(), layout, config);
}

/** Logarithmic axes label 1, 2 and 5 of a decade while they span decades, and what Plotly likes when zoomed in. */
function tuneTicks() {
  const plot = byId("scatter");
  const update = {};
  for (const name of ["xaxis", "yaxis"]) {
    const axis = plot._fullLayout[name];
    const span = Math.abs(axis.range[1] - axis.range[0]);
    const wanted = axis.type === "log" && span > 0.8 && span < 4 ? "D2" : null;
    if ((plot.layout[name].dtick ?? null) !== wanted) update[`${name}.dtick`] = wanted;
  }
  if (Object.keys(update).length) Plotly.relayout(plot, update);
}

function drawHypervolume(width) {
  if (!byId("hypervolume")) return;
  const line = {
    type: "scatter", mode: "lines", hovertemplate: "%{x} trials: %{y:.4g}<extra></extra>",
    x: data.hypervolume.map((h) => h[0]), y: data.hypervolume.map((h) => h[1]), line: { shape: "hv", color: colour("accent"), width: 2 },
  };
  const axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), automargin: true, nticks: 6 };
  Plotly.react("hypervolume", [line], {
    ...base(), width, margin: { l: 50, r: 16, t: 10, b: 42 },
    xaxis: { ...axis, title: { text: "trials", standoff: 8 } }, yaxis: { ...axis, tickformat: ".3~g" },
  }, { ...config, displayModeBar: false });
}

function draw(width) {
  drawScatter(width);
  drawHypervolume(width);
}
