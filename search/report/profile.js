// The map of sites and settings, and the chart of damage against what is saved.
const LIGHT = ["#fdf4d7", "#f7c77f", "#e88a4f", "#c4495a", "#812a6b", "#3d1054"];
const DARK = ["#28303a", "#4f2f66", "#8f3a70", "#d15a5c", "#f2994f", "#fdebb0"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down"];
const CELL = 20; // pixels: height of a row of the map
const FULL_BITS = 32 * 32; // bit operations of a multiply-accumulate of the original
const DECADES = 8; // that the colours tell apart
const WIDE = 16; // from so many columns on a panel has a row of its own
const dark = matchMedia("(prefers-color-scheme: dark)");
const names = data.techniques.map((t) => t.name);
const known = data.rows.map((r) => r.damage).filter((d) => d > 0);
const highest = known.length ? Math.ceil(Math.log10(Math.max(...known))) : 0;
const lowest = known.length ? Math.max(Math.floor(Math.log10(Math.min(...known))), highest - DECADES) : -1;
const chosen = { site: "", technique: "", saving: "bytes" };

const colours = () => (dark.matches && !matchMedia("print").matches ? DARK : LIGHT);
const SAVED = { bytes: "bytes", macs: "MACs", bops: "bit operations", latency: "latency" };
const percent = (n) => `${Number(n.toPrecision(2))} %`;
const exact = (n) => n.toLocaleString("en");
const figureText = (d) => (d === null ? "–" : d === 0 ? "0" : d < 0.001 ? d.toExponential(2) : String(Number(d.toPrecision(3))));

/** A path without the middles of its long words where it is long, so that numbers and ends stay. */
function shortened(name, longest) {
  for (let most = longest; most > 2; most -= 1) {
    const head = Math.floor(most / 2);
    const cut = (w) => (w.length <= most ? w : `${w.slice(0, head)}…${w.slice(head + 1 - most)}`);
    const text = name.split(/([.:])/).map(cut).join("");
    if (text.length <= longest) return text;
  }
  return `…${name.slice(1 - longest)}`;
}

function rowText(row) {
  const site = data.sites.find((s) => s.name === row.site);
  const part = (n, of) => (of ? ` (${Math.round(1000 * n / of) / 10} % of ${exact(of)})` : "");
  const lines = [`<b>${escaped(row.site)}</b> ${escaped(site.kind)}`, escaped(`${row.technique} ${row.setting}`)];
  if (row.error) return [...lines, escaped(`can’t be applied: ${row.error.slice(0, 90)}`)].join("<br>");
  lines.push(`damage ${figureText(row.damage)}`, `saves ${exact(row.bytes)} B${part(row.bytes, site.bytes)}`);
  lines.push(`saves ${exact(row.macs)} MACs${part(row.macs, site.macs)}`);
  lines.push(`saves ${exact(row.bops)} bit operations${part(row.bops, FULL_BITS * site.macs)}`);
  if (row.latency !== null) lines.push(`saves ${percent(row.latency)} of the latency${row.guessed ? " (by MACs: not timed)" : ""}`);
  lines.push(escaped(row.method));
  return lines.join("<br>");
}

function drawShades() {
  const bar = make("i");
  bar.style.background = `linear-gradient(90deg, ${colours().join(", ")})`;
  const end = (exponent) => make("span", {}, `10${[...String(exponent)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`);
  byId("shades").replaceChildren(make("span", {}, "damage"), end(lowest), bar, end(highest), make("span", {}, "(logarithmic)"));
}

function makePanels() {
  byId("panels").replaceChildren(...data.techniques.map((t, i) => {
    const rows = data.rows.filter((r) => r.technique === t.name);
    const settings = new Set(rows.map((r) => r.setting));
    const plot = make("div", { id: `map-${i}`, role: "figure", "aria-label": `Map of ${t.name}` });
    const title = make("h3", {}, t.name, " ", make("span", {}, t.params.join(" · ").replaceAll("_", " ")));
    return make("div", settings.size >= WIDE ? { class: "wide" } : {}, title, plot);
  }));
}

function drawPanel(technique, i, width) {
  const rows = data.rows.filter((r) => r.technique === technique.name);
  const sites = [...new Set(rows.map((r) => r.site))];
  const settings = [...new Set(rows.map((r) => r.setting))];
  const labels = settings.map((s) => rows.find((r) => r.setting === s).label);
  const room = width ?? byId(`map-${i}`).parentElement.clientWidth;
  const longest = room < 400 ? 17 : 30;
  const at = new Map(rows.map((r) => [`${r.site}\n${r.setting}`, r]));
  const grid = (read) => sites.map((s) => settings.map((l) => (at.has(`${s}\n${l}`) ? read(at.get(`${s}\n${l}`)) : null)));
  const heat = {
    type: "heatmap", hoverinfo: "text", hoverongaps: false, showscale: false, xgap: 1, ygap: 1,
    z: grid((r) => (r.damage === null ? null : r.damage > 0 ? Math.log10(r.damage) : lowest)),
    text: grid(rowText), zmin: lowest, zmax: highest,
    colorscale: colours().map((c, k, all) => [k / (all.length - 1), c]),
  };
  const failed = rows.filter((r) => r.error);
  const crosses = {
    type: "scatter", mode: "markers", hoverinfo: "text", hovertext: failed.map(rowText), showlegend: false,
    x: failed.map((r) => settings.indexOf(r.setting)), y: failed.map((r) => sites.indexOf(r.site)),
    marker: { symbol: "x-thin", size: 8, line: { width: 1.5, color: colour("soft") } },
  };
  const left = 16 + 7.4 * Math.max(...sites.map((s) => Math.min(s.length, longest)));
  const inner = Math.min(room - left - 12, Math.max(70, 58 * labels.length));
  const deepest = Math.max(...labels.map((l) => l.length));
  const turned = deepest * 7.5 > inner / labels.length;
  const bottom = turned ? 14 + 6.8 * deepest : 26;
  const every = Math.ceil(15 / (inner / labels.length)); // names of settings that would run into each other are left out
  const ticks = labels.map((_, k) => k).filter((k) => k % every === 0);
  const axis = { showgrid: false, zeroline: false, fixedrange: true, ticks: "" };
  return Plotly.react(`map-${i}`, failed.length ? [heat, crosses] : [heat], {
    ...base(), width: left + inner + 12, height: 10 + CELL * sites.length + bottom, margin: { l: left, r: 12, t: 10, b: bottom },
    xaxis: { ...axis, tickvals: ticks, ticktext: ticks.map((k) => escaped(labels[k])), tickangle: turned ? -90 : 0, range: [-0.5, labels.length - 0.5] },
    yaxis: { ...axis, tickvals: sites.map((_, k) => k), ticktext: sites.map((s) => escaped(shortened(s, longest))), range: [sites.length - 0.5, -0.5] },
  }, { ...config, responsive: false, displayModeBar: false });
}

const drawPanels = (width) => Promise.all(data.techniques.map((t, i) => drawPanel(t, i, width)));

const shown = () => data.rows.filter((r) =>
  (!chosen.site || r.site === chosen.site) && (!chosen.technique || r.technique === chosen.technique));

/** The settings of one technique at one site that no other of them beats, by what they save. */
function unbeaten(rows) {
  const sorted = [...rows].sort((a, b) => b[chosen.saving] - a[chosen.saving] || a.damage - b.damage);
  let least = Infinity;
  return sorted.filter((r) => {
    const better = r.damage < least;
    if (better) least = r.damage;
    return better;
  }).reverse();
}

function traces(rows) {
  const floor = 10 ** lowest;
  const high = (r) => Math.max(r.damage, floor);
  return names.flatMap((name, i) => {
    const own = rows.filter((r) => r.technique === name);
    if (!own.length) return [];
    const shade = colour(`t${i % 8}`);
    const lines = [...new Set(own.map((r) => r.site))].flatMap((s) => [...unbeaten(own.filter((r) => r.site === s)), null]);
    const line = {
      type: "scatter", mode: "lines", hoverinfo: "skip", legendgroup: name, showlegend: false, connectgaps: false, opacity: 0.5,
      x: lines.map((r) => r && r[chosen.saving]), y: lines.map((r) => r && high(r)),
      line: { color: shade, width: 1.2, dash: i < 8 ? "solid" : "dot" },
    };
    const dots = {
      type: "scatter", mode: "markers", name: escaped(name), legendgroup: name, hoverinfo: "text", hovertext: own.map(rowText),
      x: own.map((r) => r[chosen.saving]), y: own.map(high),
      marker: { color: shade, size: 6, opacity: 0.85, symbol: SYMBOLS[i % SYMBOLS.length] },
    };
    return [line, dots];
  });
}

function drawTrade(width) {
  const rows = shown();
  const drawn = rows.filter((r) => r.damage !== null && r[chosen.saving] > 0);
  const word = SAVED[chosen.saving];
  const axis = { type: "log", gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), automargin: true };
  const narrow = (width ?? byId("trade").clientWidth) < 500;
  const saved = drawn.map((r) => r[chosen.saving]);
  const decades = saved.length ? Math.log10(Math.max(...saved) / Math.min(...saved)) : 0;
  const left = rows.length - drawn.length;
  byId("left-out").textContent = left ? `${exact(left)} of these ${exact(rows.length)} steps save no ${word} or can’t be applied, and are left out.` : "";
  if (byId("steps").open) fillTable();
  return Plotly.react("trade", traces(drawn), {
    ...base(), width, margin: { l: 60, r: 16, t: 10, b: 52 },
    xaxis: { ...axis, title: { text: `${word} saved${chosen.saving === "latency" ? ", in % of the original’s" : ""} (more is better)`, standoff: 12 }, tickformat: ".2~s", nticks: narrow ? 4 : 8, minorloglabels: "complete", dtick: decades > 1 ? (narrow ? 1 : "D2") : null },
    yaxis: { ...axis, title: { text: data.unit, standoff: 8 }, exponentformat: "power", dtick: 1 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant" }, showlegend: true,
  }, config);
}

function fillTable() {
  const cell = (text) => make("td", { class: "figure" }, text);
  byId("step-rows").replaceChildren(...shown().map((r) => make("tr", {}, make("td", {}, make("code", {}, r.site)),
    make("td", {}, `${r.technique} ${r.setting}`), cell(r.error ? "fails" : figureText(r.damage)), cell(exact(r.bytes)), cell(exact(r.macs)),
    ...(data.latency ? [cell(r.latency === null ? "–" : percent(r.latency))] : []))));
}

function draw(width) {
  drawShades();
  drawPanels(width);
  drawTrade(width);
}

function listen() {
  for (const key of ["site", "technique", "saving"]) {
    byId(key).addEventListener("change", (event) => {
      chosen[key] = event.target.value;
      drawTrade();
    });
  }
  byId("steps").addEventListener("toggle", fillTable);
  data.techniques.forEach((t, i) => byId(`map-${i}`).on("plotly_click", (event) => {
    const sites = [...new Set(data.rows.filter((r) => r.technique === t.name).map((r) => r.site))];
    chosen.site = byId("site").value = sites[event.points[0].y];
    drawTrade();
  }));
  let last = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== last) drawPanels();
    last = innerWidth;
  });
  dark.addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(PRINT_WIDTH));
  addEventListener("afterprint", () => draw());
}

async function start() {
  if (!data.rows.length) return;
  byId("site").append(...data.sites.map((s) => make("option", { value: s.name }, s.name)));
  byId("technique").append(...names.map((n) => make("option", { value: n }, n)));
  makePanels();
  drawShades();
  await drawPanels();
  await drawTrade();
  listen();
}

start();
