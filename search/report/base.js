"use strict";
// What our pages share: their data, how text enters them, and how plots look.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PRINT_WIDTH = 680; // CSS pixels between the margins of A4

/** Create an element. Text only ever enters as text nodes. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((c) => c !== null && c !== ""));
  return node;
}

/** Plotly reads a little HTML in labels: escape what isn't ours. */
const escaped = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const base = () => ({
  modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("accent") },
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
  font: { family: "system-ui, sans-serif", size: 12.5, color: colour("soft") },
  hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), align: "left", font: { color: colour("ink"), size: 13 } },
});
// The library's own bar would offer to upload the figures: only these buttons are shown, and it knows no server.
const config = {
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
