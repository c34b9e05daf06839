"use strict";
// What every part of the page shares: the data of the run, what is being looked at, and how text enters.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const metrics = new Map(data.metrics.map((m) => [m.name, m]));
const points = new Map(data.points.map((p) => [String(p.id), p]));
const FIRST_DENSE = 15; // from so many columns on, the map of choices shows colours only
const LABELLED = 24; // up to so many points carry their number in the plot
const PRINT_WIDTH = 680; // CSS pixels between the margins of A4
const state = { point: null, x: "", y: data.quality, xLog: false, yLog: false, whole: false, split: "final" };

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

/** The figure of a metric on the chosen split; only quality never borrows from the other one. */
function figure(point, metric) {
  const other = state.split === "final" ? "search" : "final";
  return point[state.split][metric] ?? (metric === data.quality ? undefined : point[other][metric]);
}
const value = (point, metric) => figure(point, metric)?.value ?? null;
