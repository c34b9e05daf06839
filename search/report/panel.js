// The selected point, and the table of the front.
function cell(found) {
  return make("td", {}, found?.text ?? "–", found?.range ? make("small", {}, found.range) : "");
}

function showPoint(point) {
  byId("point-title").textContent = `Point ${point.id}`;
  byId("point-flags").replaceChildren(...point.flags.map((f) => make("span", {}, f)));
  byId("point-figures").replaceChildren(...data.metrics
    .filter((m) => point.final[m.name] || point.search[m.name])
    .map((m) => {
      const gain = point.ratios[m.name];
      const final = cell(point.final[m.name]);
      if (gain) final.append(make("small", { class: gain.tone }, gain.short));
      if (point.final[m.name]?.detail) final.append(make("small", { class: "detail" }, point.final[m.name].detail));
      const row = make("tr", {}, make("th", { scope: "row" }, m.label), final);
      if (data.split !== "validation") row.append(cell(point.search[m.name]));
      row.append(make("td", {}, data.baseline.final[m.name]?.text ?? data.baseline.search[m.name]?.text ?? "–"));
      return row;
    }));
  for (const way of ["pick", "export"]) {
    byId(`point-${way}`).textContent = point[way];
    byId(`point-${way}`).parentElement.hidden = !point[way];
  }
  const facts = { Files: point.path, Trial: point.trial, Recipe: point.digest };
  byId("point-facts").replaceChildren(...Object.entries(facts)
    .filter(([, v]) => v !== null && v !== "")
    .flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, make("code", {}, String(v)))]));
  showLayers(point);
}

function showLayers(point) {
  if (!byId("layer-list")) return;
  byId("layer-list-title").textContent = `Point ${point.id}, layer by layer`;
  byId("layer-list").replaceChildren(...point.layers.map(({ site, choices }) => {
    const known = data.sites[site] ?? {};
    const chips = choices.flatMap((c, i) => (i ? [make("br"), c] : [c]));
    return make("tr", {}, make("td", {}, make("code", {}, site)), make("td", {}, known.kind ?? ""),
      make("td", {}, known.shape ?? ""), make("td", {}, known.macs ?? ""),
      make("td", {}, known.bytes ?? ""), make("td", {}, ...chips));
  }));
}

/** Bring a row into its own scrolling frame; the page stays where it is. */
function bringIntoFrame(row) {
  const frame = row.closest(".scroll");
  const head = row.closest("table").tHead.offsetHeight;
  if (row.offsetTop < frame.scrollTop + head) frame.scrollTop = row.offsetTop - head;
  const below = row.getBoundingClientRect().bottom - frame.getBoundingClientRect().top - frame.clientHeight;
  if (below > 0) frame.scrollTop += Math.ceil(below); // heights are no whole pixels
}

function select(id, reveal) {
  id = String(id);
  if (!points.has(id)) return;
  state.point = id;
  showPoint(points.get(id));
  for (const row of byId("front-rows").rows) {
    row.setAttribute("aria-current", String(row.dataset.row === id));
    if (row.dataset.row === id) bringIntoFrame(row);
  }
  for (const pick of document.querySelectorAll(".pick")) {
    pick.setAttribute("aria-pressed", String(pick.dataset.point === id));
  }
  for (const node of document.querySelectorAll("#matrix [data-point]")) {
    node.classList.toggle("on", node.dataset.point === id);
  }
  drawScatter();
  if (reveal) history.replaceState(null, "", `#point-${encodeURIComponent(id)}`);
}

function step(by) {
  const order = [...byId("front-rows").rows].map((r) => r.dataset.row);
  select(order[(order.indexOf(state.point) + by + order.length) % order.length], true);
}

function sort(button) {
  const header = button.closest("th");
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const [, side, metric] = /^(\w+):?([\s\S]*)$/.exec(button.dataset.sort);
  const rank = (p) => (side === "id" ? p.id : (p[side][metric] ?? p.search[metric])?.value) ?? null;
  const key = new Map(data.points.map((p) => [String(p.id), rank(p)]));
  const compare = (a, b) => {
    const [first, last] = [key.get(a.dataset.row), key.get(b.dataset.row)];
    if (first === null || last === null) return (first === null) - (last === null); // the unknown come last
    return (ascending ? 1 : -1) * (first < last ? -1 : Number(first > last));
  };
  byId("front-rows").append(...[...byId("front-rows").rows].sort(compare));
}
