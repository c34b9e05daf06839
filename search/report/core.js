// What every part of the page shares: the metrics and points of the run, and what is being looked at.
const metrics = new Map(data.metrics.map((m) => [m.name, m]));
const points = new Map(data.points.map((p) => [String(p.id), p]));
const FIRST_DENSE = 15; // from so many columns on, the map of choices shows colours only
const LABELLED = 24; // up to so many points carry their number in the plot
const state = { point: null, x: "", y: data.quality, xLog: false, yLog: false, whole: false, split: "final" };

/** The figure of a metric on the chosen split; only quality never borrows from the other one. */
function figure(point, metric) {
  const other = state.split === "final" ? "search" : "final";
  return point[state.split][metric] ?? (metric === data.quality ? undefined : point[other][metric]);
}
const value = (point, metric) => figure(point, metric)?.value ?? null;
