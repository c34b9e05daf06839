// The map of choices: one row a site, one column a point.
/** Halving what is kept darkens by a fifth: 8 bits 0.4, 4 bits 0.6, 1 bit 1. */
const shade = (kept) => Math.min(1, Math.log2(1 / Math.max(kept, 1 / 32)) / 5);

/** [text lines, strength from 0 to 1 or null] of a cell, for every choice or for one knob. */
function reading(content, knob, low, high) {
  if (!content) return null;
  if (!knob) return [content.lines, content.kept === null ? null : shade(content.kept)];
  if (!(knob in content.knobs)) return null;
  const v = content.knobs[knob];
  const strength = high > low ? (v - low) / (high - low) : 0.5;
  return [[String(v)], knob.endsWith(".ratio") ? strength : 1 - strength];
}

function matrixCell(content, id, site, read, dense) {
  const td = make("td", { "data-point": id, title: `${site}, point ${id}: ${content ? content.title : "left alone"}` });
  if (!read) return td;
  const [lines, strength] = read;
  if (!dense) td.append(...lines.flatMap((l, i) => (i ? [make("br"), l] : [l])));
  if (strength === null) {
    td.classList.add("plain");
    return td;
  }
  td.dataset.strength = strength.toFixed(3);
  td.style.setProperty("--strength", `${Math.round(6 + 66 * strength)}%`); // dark enough to see, light enough to read on
  return td;
}

function drawMatrix() {
  const table = byId("matrix");
  if (!table) return;
  const knob = byId("knob").value;
  const seen = data.matrix.rows.flatMap((r) => r.cells).filter((c) => c && knob in c.knobs).map((c) => c.knobs[knob]);
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  const ids = data.points.map((p) => String(p.id));
  const dense = ids.length >= FIRST_DENSE;
  const every = Math.ceil(ids.length / 40);
  table.classList.toggle("dense", dense);
  const head = make("tr", {}, make("th", { class: "site", scope: "col" }, "site"), ...ids.map((id, i) =>
    make("th", { scope: "col", "data-point": id }, i % every || i + every > ids.length ? "" : make("button", { type: "button", "data-point": id, "aria-label": `Point ${id}` }, id))));
  const body = data.matrix.rows.map((row) => {
    const name = make("th", { class: "site", scope: "row", title: `${row.site} (${row.kind})` }, make("code", {}, row.site));
    return make("tr", {}, name, ...row.cells.map((c, i) => matrixCell(c, ids[i], row.site, reading(c, knob, low, high), dense)));
  });
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  const gentleFirst = knob.endsWith(".ratio") ? [low, high] : [high, low];
  byId("scale-from").textContent = knob ? String(gentleFirst[0]) : "all kept";
  byId("scale-to").textContent = knob ? String(gentleFirst[1]) : "little kept";
  for (const node of table.querySelectorAll(`[data-point]`)) node.classList.toggle("on", node.dataset.point === state.point);
}
