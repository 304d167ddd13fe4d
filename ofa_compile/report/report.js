"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const points = data.points;
  const byId = (id) => document.getElementById(id);
  const percent = (value, digits = 2) => value == null ? "–" : (100 * value).toFixed(digits) + " %";
  const number = (value, digits = 4) => value == null ? "–" : Number(value.toPrecision(digits)).toLocaleString("en");
  const NS = "http://www.w3.org/2000/svg";
  const svg = (name, attributes = {}, text = "") => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const html = (name, text = "", className = "") => {
    const node = document.createElement(name);
    node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const none = (id, text) => byId(id).replaceChildren(html("p", text, "none"));
  const table = (caption, header, rows) => {
    const box = html("div", "", "scroll"), body = document.createElement("tbody");
    const grid = document.createElement("table"), head = document.createElement("tr");
    const title = html("caption", caption, "note");
    for (const cell of header) { const th = html("th", cell); th.scope = "col"; head.append(th); }
    for (const row of rows) {
      const line = document.createElement("tr");
      for (const cell of row) line.append(html("td", String(cell)));
      body.append(line);
    }
    const top = document.createElement("thead");
    top.append(head);
    grid.append(title, top, body);
    box.append(grid);
    return box;
  };

  // A frame with linear axes; returns the drawing and where values fall.
  const chart = (label, xLabel, yLabel, xs, ys) => {
    const width = 720, height = 380, left = 60, right = 16, top = 14, bottom = 46;
    const range = (values) => {
      const low = values.reduce((a, b) => Math.min(a, b), Infinity);
      const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
      const pad = (high - low || Math.abs(high) || 1) * 0.04;
      return [low - pad, high + pad];
    };
    const [x0, x1] = range(xs), [y0, y1] = range(ys);
    const x = (value) => left + (value - x0) / (x1 - x0) * (width - left - right);
    const y = (value) => height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (let tick = 0; tick <= 5; tick += 1) {
      const xv = x0 + (x1 - x0) * tick / 5, yv = y0 + (y1 - y0) * tick / 5;
      root.append(
        svg("line", { class: "axis", x1: x(xv), x2: x(xv), y1: height - bottom, y2: height - bottom + 5 }),
        svg("text", { x: x(xv), y: height - bottom + 18, "text-anchor": "middle" }, number(xv, 3)),
        svg("line", { class: "axis", x1: left - 5, x2: left, y1: y(yv), y2: y(yv) }),
        svg("text", { x: left - 8, y: y(yv) + 4, "text-anchor": "end" }, number(yv, 4)));
    }
    root.append(
      svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
      svg("line", { class: "axis", x1: left, x2: left, y1: top, y2: height - bottom }),
      svg("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, xLabel),
      svg("text", { x: 14, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${height / 2})` }, yLabel));
    return { root, x, y, width };
  };

  let chosen = Math.max(0, points.findIndex((point) => point.mark === "knee"));
  let ring = null, place = null;
  const words = (point) =>
    `${point.hash}: ${percent(point.accuracy)} (prediction), ` +
    `${number(point.cost)} ${data.cost_label}, ${number(point.macs / 1e6)} M MACs, ` +
    `${point.architecture.resolution} px${point.mark ? ", " + point.mark : ""}`;

  const blocksOf = (point) => point.blocks.map((place) => data.blocks[place]);
  const choose = (index) => {
    if (!points.length) return;
    chosen = Math.min(points.length - 1, Math.max(0, index));
    const point = points[chosen];
    if (ring) { ring.setAttribute("cx", place.x(point.cost)); ring.setAttribute("cy", place.y(100 * point.accuracy)); }
    byId("tip").textContent = words(point);
    byId("facts").replaceChildren(table(`Architecture ${point.hash}`, ["figure", "value"], [
      ["top-1 accuracy (prediction)", percent(point.accuracy)],
      ["its uncertainty", percent(point.accuracy_std)],
      [data.cost_label, number(point.cost)],
      ["its uncertainty, relative", percent(point.cost_std, 1)],
      ["resolution", point.architecture.resolution], ["MACs", point.macs.toLocaleString("en")],
      ["parameters", point.num_parameters.toLocaleString("en")], ["bytes of weights", point.size_bytes.toLocaleString("en")]]));
    const blocks = blocksOf(point), most = Math.max(...blocks.map((block) => block.ms), 0);
    const list = html("ul", "", "blocks");
    list.setAttribute("aria-label", "Blocks and their time");
    for (const block of blocks) {
      const item = document.createElement("li"), track = html("span", "", "track"), bar = html("div", "", "bar");
      bar.style.width = most ? `${100 * block.ms / most}%` : "0";
      track.append(bar);
      item.append(html("span", block.label), track, html("span", `${number(block.ms, 3)} ms`, "time"));
      item.title = `${percent(block.roofline_share, 0)} of the core's arithmetic peak (estimate)`;
      list.append(item);
    }
    const note = html("p", `Time per block: ${data.block_kind}. Arithmetic peak reached, as the model of the core has it: ` +
      `${percent(point.roofline_share, 0)} (estimate).`, "note");
    byId("blocks").replaceChildren(...(blocks.length ? [note, list] : []));
  };

  const drawFront = () => {
    if (!points.length) { none("front", "No points: the search that this report is about has none."); none("facts", "Nothing to choose."); return; }
    const measured = data.verified.filter((item) => data.cost_is_latency && item.measured_ms != null);
    place = chart(`Pareto front of ${points.length} architectures: accuracy over ${data.cost_label}. Arrow keys move along it.`,
      data.cost_label, "accuracy, % (prediction)",
      points.map((p) => p.cost).concat(measured.map((m) => m.measured_ms)), points.map((p) => 100 * p.accuracy));
    const layer = svg("g");
    for (const point of points) layer.append(svg("circle", { class: "point", cx: place.x(point.cost).toFixed(1), cy: place.y(100 * point.accuracy).toFixed(1), r: points.length > 1000 ? 2 : 4 }));
    for (const item of measured) layer.append(svg("rect", { class: "measured", x: place.x(item.measured_ms) - 4, y: place.y(100 * item.accuracy) - 4, width: 8, height: 8 }));
    ring = svg("circle", { class: "chosen", r: 8 });
    place.root.append(layer, ring);
    place.root.id = "front-chart";
    place.root.setAttribute("tabindex", "0");
    const nearest = (event) => {
      const box = place.root.getBoundingClientRect(), scale = place.width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      let best = 0, least = Infinity;
      points.forEach((point, index) => {
        const far = (place.x(point.cost) - px) ** 2 + (place.y(100 * point.accuracy) - py) ** 2;
        if (far < least) { least = far; best = index; }
      });
      return best;
    };
    place.root.addEventListener("mousemove", (event) => { byId("tip").textContent = words(points[nearest(event)]); });
    place.root.addEventListener("mouseleave", () => { byId("tip").textContent = words(points[chosen]); });
    place.root.addEventListener("click", (event) => choose(nearest(event)));
    place.root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      const end = { Home: 0, End: points.length - 1 }[event.key];
      if (step === undefined && end === undefined) return;
      event.preventDefault();
      choose(end === undefined ? chosen + step : end);
    });
    byId("front").replaceChildren(place.root);
    byId("front-note").textContent = "Hover or use the arrow keys; click for the block diagram." +
      (measured.length ? " Squares: latency measured on the target." : "");
    choose(chosen);
  };

  const drawVerified = () => {
    const pairs = data.latency_pairs, parts = [];
    if (pairs.length) {
      const values = pairs.flatMap((pair) => [pair.predicted_ms, pair.measured_ms]);
      const frame = chart(`Predicted over measured latency of ${pairs.length} subnets`, "measured, ms", "predicted, ms", values, values);
      const low = Math.min(...values), high = Math.max(...values);
      frame.root.append(svg("line", { class: "diagonal", x1: frame.x(low), y1: frame.y(low), x2: frame.x(high), y2: frame.y(high) }));
      for (const pair of pairs) {
        const spread = 2 * (pair.relative_std || 0) * pair.predicted_ms, x = frame.x(pair.measured_ms);
        frame.root.append(svg("line", { class: "band", x1: x, x2: x, y1: frame.y(pair.predicted_ms - spread), y2: frame.y(pair.predicted_ms + spread) }),
          svg("circle", { class: pair.is_winner ? "measured" : "point", cx: x, cy: frame.y(pair.predicted_ms), r: 3.5 }));
      }
      const errors = pairs.map((pair) => Math.abs(pair.predicted_ms / pair.measured_ms - 1)).sort((a, b) => a - b);
      parts.push(html("p", `${pairs.length} subnets, median error ${percent(errors[errors.length >> 1], 1)}. ` +
        "Circles: predicted without having seen them; bands: two standard deviations either way.", "note"), frame.root);
    }
    if (data.verified.length) parts.push(table("Verified on the target", ["architecture", "accuracy (prediction)", "accuracy (measurement)", `ms (${data.verified[0].predicted_kind})`, "ms (measurement)", "p95 ms", "meets limit"],
      data.verified.map((item) => [item.hash, percent(item.accuracy), percent(item.measured_accuracy), number(item.predicted_ms), number(item.measured_ms), number(item.p95_ms), item.meets_limit ? "yes" : "no"])));
    if (parts.length) byId("verified").replaceChildren(...parts); else none("verified", "Nothing has been measured yet.");
  };

  const drawCurves = () => {
    const parts = data.learning_curves.map((curve) => {
      const frame = chart(`${curve.name}: ${curve.y_label} over ${curve.x_label}`, curve.x_label, curve.y_label, curve.x, curve.y);
      frame.root.append(svg("polyline", { class: "curve", points: curve.x.map((value, index) => `${frame.x(value)},${frame.y(curve.y[index])}`).join(" ") }));
      curve.x.forEach((value, index) => frame.root.append(svg("circle", { class: "point", cx: frame.x(value), cy: frame.y(curve.y[index]), r: 4 })));
      const box = html("div");
      box.append(html("h3", curve.name), frame.root);
      return box;
    });
    if (parts.length) byId("curves").replaceChildren(...parts); else none("curves", "No data set is large enough for a learning curve.");
  };

  const rows = (items, limit, make) => {
    const box = html("div"), show = (count) => {
      box.replaceChildren(make(items.slice(0, count)));
      if (count < items.length) {
        const more = html("button", `Show all ${items.length}`);
        more.type = "button";
        more.addEventListener("click", () => show(items.length));
        box.append(more);
      }
    };
    show(limit);
    return box;
  };

  drawFront();
  drawVerified();
  drawCurves();
  if (data.tuning.length) byId("tuning").replaceChildren(rows(data.tuning, 25, (items) => table(
    "Workloads of the tuning database (measurement)", ["workload", "default µs", "best µs", "gain", "roofline share"],
    items.map((item) => [item.workload, number(item.default_us), number(item.best_us), item.gain == null ? "–" : item.gain.toFixed(2) + "x", percent(item.roofline_share, 0)]))));
  else none("tuning", "There is no tuning database.");
  if (points.length) byId("table").replaceChildren(rows(points, 50, (items) => table("The front", ["architecture", "accuracy (prediction)", data.cost_label, "px", "MACs", "parameters", "bytes"],
    items.map((point) => [point.hash + (point.mark ? ` (${point.mark})` : ""), percent(point.accuracy), number(point.cost), point.architecture.resolution, point.macs.toLocaleString("en"), point.num_parameters.toLocaleString("en"), point.size_bytes.toLocaleString("en")]))));
  else none("table", "No points.");
  byId("provenance").replaceChildren(table("Where the figures come from", ["what", "value"], Object.entries(data.provenance).map(([key, value]) => [key.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : value])));
  byId("summary").textContent = `${points.length} architectures of ${data.space}; every accuracy is a prediction unless it says measurement.`;
  document.body.dataset.ready = "yes";
})();
