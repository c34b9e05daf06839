// What a click, a key or a change does.
async function copy(button) {
  const source = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1600);
}

function listen() {
  document.addEventListener("click", (event) => {
    const node = event.target.closest("[data-copy], [data-sort], [data-point], [data-row]");
    if (!node) return;
    if (node.dataset.copy) copy(node);
    else if (node.dataset.sort) sort(node);
    else select(node.dataset.point ?? node.dataset.row, true);
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  for (const axis of ["x", "y"]) {
    byId(`${axis}-axis`).addEventListener("change", (event) => {
      state[axis] = event.target.value;
      suggestLog(axis);
      offerLog(axis);
      drawScatter();
    });
    byId(`${axis}-log`).addEventListener("change", (event) => {
      state[`${axis}Log`] = event.target.checked;
      drawScatter();
    });
  }
  byId("whole").addEventListener("change", (event) => {
    state.whole = event.target.checked;
    drawScatter();
  });
  byId("split")?.addEventListener("change", (event) => {
    state.split = event.target.value;
    for (const axis of ["x", "y"]) offerLog(axis);
    drawScatter();
  });
  byId("knob")?.addEventListener("change", drawMatrix);
  for (const radio of document.querySelectorAll("[name=tolerance]")) {
    radio.addEventListener("change", () => {
      for (const answer of document.querySelectorAll("[data-answer]")) answer.hidden = answer.dataset.answer !== radio.value;
      document.querySelector(`[data-answer="${radio.value}"] .pick`)?.click();
    });
  }
  byId("scatter").on("plotly_afterplot", tuneTicks);
  byId("scatter").on("plotly_click", (event) => {
    const id = event.points[0].customdata;
    if (id !== undefined) select(id, true);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(PRINT_WIDTH));
  addEventListener("afterprint", () => draw());
  addEventListener("hashchange", () => select(decodeURIComponent(location.hash).replace("#point-", "")));
}

async function start() {
  if (!data.points.length) return;
  const offered = plottable().map((m) => m.name);
  const goals = data.metrics.filter((m) => m.objective && m.name !== data.quality && offered.includes(m.name));
  state.x = (goals.find((m) => m.name === "size") ?? goals[0])?.name ?? offered.find((m) => m !== data.quality) ?? data.quality;
  if (!offered.includes(state.y)) state.y = offered[0] ?? data.quality;
  suggestLog("x");
  fillAxes();
  offerLog("x");
  offerLog("y");
  await drawScatter();
  drawHypervolume();
  drawMatrix();
  listen();
  tuneTicks();
  const linked = decodeURIComponent(location.hash).replace("#point-", "");
  const advised = document.querySelector("[data-answer]:not([hidden]) .pick")?.dataset.point;
  select(points.has(linked) ? linked : advised ?? data.points[0].id);
}

start();
