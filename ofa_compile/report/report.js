"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const points = data.points;
  const byId = (id) => document.getElementById(id);
  const percent = (value, digits = 2) => value == null ? "–" : (100 * value).toFixed(digits) + " %";
  const number = (value, digits = 4) => value == null ? "–" :
    Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 20 });
  const count = (value) => value == null ? "–" : value.toLocaleString("en");
  const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
  const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);

  // Elements -----------------------------------------------------------------------------------
  const svg = (name, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const html = (name, content = "", className = "") => {
    const node = document.createElement(name);
    if (Array.isArray(content)) node.append(...content); else node.textContent = content;
    if (className) node.className = className;
    return node;
  };
  const none = (id, text) => byId(id).replaceChildren(html("p", text, "none"));
  const fact = (name, value, detail = "") => {
    const shown = html("dd", String(value));
    return html("div", detail ? [html("dt", name), shown, html("small", detail)] : [html("dt", name), shown]);
  };
  // A header is a text or [text, class]; a cell is a text or a node. Wide tables scroll by themselves.
  const table = (caption, header, rows, className = "") => {
    const heads = header.map((cell) => {
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      const th = html("th", text, kind);
      th.scope = "col";
      return th;
    });
    const kinds = heads.map((th) => th.className);
    const lines = rows.map((row) => html("tr", row.map((cell, place) =>
      html("td", cell instanceof Node ? [cell] : String(cell), kinds[place]))));
    const grid = html("table", [html("caption", caption), html("thead", [html("tr", heads)]), html("tbody", lines)], className);
    const box = html("div", [grid], "scroll");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", caption);
    return box;
  };
  const legend = (entries) => html("ul", entries.map(([kind, text]) =>
    html("li", [html("i", "", kind), text])), "legend");
  const shortened = (items, limit, make) => {
    const box = html("div"), show = (size) => {
      box.replaceChildren(make(items.slice(0, size)));
      if (size >= items.length) return;
      const more = html("button", `Show all ${count(items.length)}`);
      more.type = "button";
      more.addEventListener("click", () => show(items.length));
      box.append(more);
    };
    show(limit);
    return box;
  };

  // Charts -------------------------------------------------------------------------------------
  const nice = (low, high) => {
    const raw = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((value) => value >= raw);
    const digits = Math.max(0, -Math.floor(Math.log10(step)) + (step / unit === 2.5 ? 1 : 0));
    const ticks = [];
    for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) ticks.push(tick * step);
    return ticks.map((value) => [value, value.toFixed(Math.min(digits, 12))]);
  };
  // A frame with linear axes; returns the drawing and where values fall.
  const chart = (label, xLabel, yLabel, xs, ys, width = 960, height = 440) => {
    const left = 58, right = 20, top = 24, bottom = 48;
    const range = (values) => {
      const low = least(values), high = most(values);
      const pad = (high - low || Math.abs(high) || 1) * 0.04;
      return [low - pad, high + pad];
    };
    const [x0, x1] = range(xs), [y0, y1] = range(ys);
    const x = (value) => left + (value - x0) / (x1 - x0) * (width - left - right);
    const y = (value) => height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const [value, text] of nice(x0, x1)) root.append(
      svg("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
      svg("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, text));
    for (const [value, text] of nice(y0, y1)) root.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, text));
    root.append(
      svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
      svg("text", { x: width - right, y: height - 8, "text-anchor": "end" }, xLabel),
      svg("text", { x: 4, y: 12 }, yLabel));
    return { root, x, y, width };
  };

  // The front ----------------------------------------------------------------------------------
  let chosen = Math.max(0, points.findIndex((point) => point.mark === "knee"));
  let ring = null, place = null;
  const words = (point) => `${point.hash}: ${percent(point.accuracy)} (prediction), ` +
    `${number(point.cost)} ${data.cost_label}, ${number(point.macs / 1e6)} M MACs, ` +
    `${point.architecture.resolution} px${point.mark ? ", " + point.mark : ""}`;

  const outline = (channels) => {
    // In, expanded, out: the shape of an inverted residual block, heights by the logarithm.
    const [a, b, c] = channels.map((value) => 1.2 * Math.log2(value + 1) - 1);
    const corners = [[1, -a], [20, -b], [52, -b], [71, -c], [71, c], [52, b], [20, b], [1, a]];
    const root = svg("svg", { viewBox: "0 0 72 24", "aria-hidden": "true" });
    root.append(svg("polygon", { points: corners.map(([x, y]) => `${x},${(12 + y).toFixed(1)}`).join(" ") }));
    return root;
  };
  const drawBlocks = (point) => {
    const blocks = point.blocks.map((index) => data.blocks[index]);
    if (!blocks.length) return [];
    const longest = most(blocks.map((block) => block.ms));
    const measured = blocks.filter((block) => block.kind === "measurement").length;
    const rows = blocks.map((block) => {
      const bar = html("div", "", `bar ${block.kind}`);
      bar.style.width = `${100 * block.ms / longest}%`;
      return [block.name, outline(block.channels), block.what, block.channels.join(" → "), block.pixels,
        html("div", [bar], "track"), number(block.ms, 3), block.kind, percent(block.roofline_share, 0)];
    });
    const note = measured ? `${measured} of ${blocks.length} blocks were measured in verified subnets (median), the others are estimates.`
      : "All times per block are estimates from the model of the core; --verify-top measures them.";
    return [html("h3", "Blocks"), html("p", note, "note"),
      legend([...(measured ? [["measured", "measurement"]] : []), ...(measured < blocks.length ? [["", "estimate"]] : [])]),
      table(`Blocks of ${point.hash} and their time on ${data.target}, one thread`,
        ["block", ["", "left"], ["layers", "left"], ["channels", "left optional"], ["px", "optional"],
          ["time", "left wide-cell"], "ms", ["", "left optional"], "of peak"], rows, "blocks")];
  };
  const choose = (index) => {
    if (!points.length) return;
    chosen = Math.min(points.length - 1, Math.max(0, index));
    const point = points[chosen], verified = data.verified.find((item) => item.hash === point.hash);
    ring.setAttribute("cx", place.x(point.cost));
    ring.setAttribute("cy", place.y(100 * point.accuracy));
    byId("tip").textContent = words(point);
    const spread = point.accuracy_std == null ? "" : `± ${percent(point.accuracy_std)}`;
    const range = point.cost_std ? `± ${percent(point.cost_std, 1)}` : "";
    byId("facts").replaceChildren(
      fact("architecture", point.hash, point.mark), fact("top-1 accuracy (prediction)", percent(point.accuracy), spread),
      fact(data.cost_label, number(point.cost), range),
      ...(point.images_per_s == null ? [] : [fact(`images/s (${point.images_per_s_kind})`, number(point.images_per_s))]),
      ...(verified ? [fact("latency, ms (measurement)", number(verified.measured_ms))] : []),
      ...(verified && verified.images_per_s != null ? [fact("images/s (measurement)", number(verified.images_per_s))] : []),
      fact("resolution", `${point.architecture.resolution} px`), fact("MACs", count(point.macs)),
      fact("parameters", count(point.num_parameters)), fact("bytes of weights", count(point.size_bytes)),
      fact("share of the arithmetic peak", percent(point.roofline_share, 0), "of the core, all blocks"));
    byId("blocks").replaceChildren(...drawBlocks(point));
  };

  const drawFront = () => {
    if (!points.length) {
      none("front", "No points: the search that this report is about has none.");
      byId("details").hidden = true;
      return;
    }
    const measured = data.verified.filter((item) => data.cost_is_latency && item.measured_ms != null);
    const spread = (point) => 100 * (point.accuracy_std || 0);
    place = chart(`Pareto front of ${points.length} architectures: accuracy over ${data.cost_label}. Arrow keys move along it.`,
      data.cost_label, "accuracy, % (prediction)",
      points.map((p) => p.cost).concat(measured.map((m) => m.measured_ms)),
      points.flatMap((p) => [100 * p.accuracy - spread(p), 100 * p.accuracy + spread(p)]));
    const at = (point, sign) => `${place.x(point.cost).toFixed(1)},${place.y(100 * point.accuracy + sign * spread(point)).toFixed(1)}`;
    const hasSpread = points.some(spread);
    if (hasSpread) place.root.append(svg("polygon", { class: "ribbon",
      points: [...points.map((p) => at(p, 1)), ...points.toReversed().map((p) => at(p, -1))].join(" ") }));
    const layer = svg("g"), radius = points.length > 1000 ? 2 : points.length > 150 ? 3 : 4;
    for (const point of points) layer.append(svg("circle", { class: "point", cx: place.x(point.cost).toFixed(1), cy: place.y(100 * point.accuracy).toFixed(1), r: radius }));
    for (const item of measured) {
      const x = place.x(item.measured_ms), y = place.y(100 * item.accuracy);
      layer.append(svg("line", { class: "shift", x1: place.x(item.predicted_ms), x2: x, y1: y, y2: y }),
        svg("rect", { class: "measured", x: x - 4.5, y: y - 4.5, width: 9, height: 9, rx: 1 }));
    }
    for (const point of points) if (point.mark) layer.append(svg("text",
      { class: "name", x: place.x(point.cost), y: place.y(100 * point.accuracy) - 14, "text-anchor": "middle" }, point.mark));
    ring = svg("circle", { class: "chosen", r: radius + 4 });
    place.root.append(layer, ring);
    place.root.id = "front-chart";
    place.root.setAttribute("tabindex", "0");
    const hover = html("div", "", "hover");
    hover.hidden = true;
    hover.setAttribute("aria-hidden", "true");
    const nearest = (event) => {
      const box = place.root.getBoundingClientRect(), scale = place.width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      let best = 0, distance = Infinity;
      points.forEach((point, index) => {
        const far = (place.x(point.cost) - px) ** 2 + (place.y(100 * point.accuracy) - py) ** 2;
        if (far < distance) { distance = far; best = index; }
      });
      return best;
    };
    place.root.addEventListener("mousemove", (event) => {
      const point = points[nearest(event)], scale = place.root.clientWidth / place.width;
      const x = scale * place.x(point.cost), isRight = x > place.root.clientWidth / 2;
      hover.textContent = words(point);
      hover.style.top = `${scale * place.y(100 * point.accuracy) + 12}px`;
      hover.style.left = isRight ? "auto" : `${x + 12}px`;
      hover.style.right = isRight ? `${place.root.clientWidth - x + 12}px` : "auto";
      hover.hidden = false;
    });
    place.root.addEventListener("mouseleave", () => { hover.hidden = true; });
    place.root.addEventListener("click", (event) => choose(nearest(event)));
    place.root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      const end = { Home: 0, End: points.length - 1 }[event.key];
      if (step === undefined && end === undefined) return;
      event.preventDefault();
      choose(end === undefined ? chosen + step : end);
    });
    byId("front").replaceChildren(legend([["", "searched"], ...(hasSpread ? [["ribbon", "uncertainty of the accuracy (one deviation)"]] : []),
      ...(measured.length ? [["measured", "the same with measured latency"]] : [])]), place.root, hover);
    byId("front-note").textContent = ["Hover for an architecture, click or use the arrow keys to choose it.", data.estimate_limits].join(" ");
    choose(chosen);
  };

  // What else is known -------------------------------------------------------------------------
  const drawVerified = () => {
    const items = data.verified;
    if (!items.length) { none("verified", "Nothing has been measured yet: search with --verify-top."); return; }
    byId("verified").replaceChildren(table("Prediction and measurement side by side, the best first",
      ["architecture", "accuracy (prediction)", "accuracy (measurement)", `ms (${items[0].predicted_kind})`, "ms (measurement)", "difference", "p95 ms", "mJ (measurement)", "meets limit"],
      items.map((item) => [item.hash, percent(item.accuracy), percent(item.measured_accuracy), number(item.predicted_ms), number(item.measured_ms),
        item.predicted_ms == null ? "–" : percent(item.predicted_ms / item.measured_ms - 1, 1), number(item.p95_ms), number(item.energy_mj), item.meets_limit ? "yes" : "no"])));
  };

  const drawPairs = () => {
    const pairs = data.latency_pairs;
    if (!pairs.length) { none("pairs", "No subnet has been both predicted and measured."); return; }
    const spread = (pair) => 2 * (pair.relative_std || 0) * pair.predicted_ms;
    const values = pairs.flatMap((pair) => [pair.predicted_ms, pair.measured_ms]);
    const low = least(values), high = most(values);
    const frame = chart(`Predicted over measured latency of ${pairs.length} subnets`, "measured, ms", "predicted, ms", values, values, 560, 400);
    frame.root.append(svg("line", { class: "diagonal", x1: frame.x(low), y1: frame.y(low), x2: frame.x(high), y2: frame.y(high) }));
    for (const pair of pairs) {
      const x = frame.x(pair.measured_ms), y = frame.y(pair.predicted_ms);
      frame.root.append(svg("line", { class: "band", x1: x, x2: x, y1: frame.y(pair.predicted_ms - spread(pair)), y2: frame.y(pair.predicted_ms + spread(pair)) }),
        pair.is_winner ? svg("rect", { class: "measured", x: x - 4.5, y: y - 4.5, width: 9, height: 9, rx: 1 }) : svg("circle", { class: "point", cx: x, cy: y, r: 3.5 }));
    }
    const errors = pairs.map((pair) => Math.abs(pair.predicted_ms / pair.measured_ms - 1)).sort((a, b) => a - b);
    const winners = pairs.filter((pair) => pair.is_winner).length;
    byId("pairs").replaceChildren(
      html("p", `${pairs.length} subnets, median error ${percent(errors[errors.length >> 1], 1)}. Bars: two standard deviations either way.`, "note"),
      legend([...(winners < pairs.length ? [["", "predicted without having seen them"]] : []), ...(winners ? [["measured", "winners"]] : [])]), frame.root);
  };

  const drawEnergy = () => {
    if (!data.energies.length) { none("energy", "No energy was counted: `measure` reads it from NVIDIA's driver on this machine."); return; }
    byId("energy").replaceChildren(html("p", `Measured: ${data.energy_covers}.`, "note"), shortened(data.energies, 20, (items) => table(
      "Measured subnets, the most frugal first", ["architecture", "px", "images of a run", "ms of a run", "mJ of an inference"],
      items.map((item) => [item.hash, item.resolution, item.batch, number(item.measured_ms), number(item.energy_mj)]))));
  };

  const drawCurves = () => {
    const parts = data.learning_curves.flatMap((curve) => {
      const frame = chart(`${curve.name}: ${curve.y_label} over ${curve.x_label}`, curve.x_label, curve.y_label, curve.x, [...curve.y, 0], 560, 320);
      frame.root.append(svg("polyline", { class: "curve", points: curve.x.map((value, index) => `${frame.x(value)},${frame.y(curve.y[index])}`).join(" ") }));
      curve.x.forEach((value, index) => frame.root.append(svg("circle", { class: "point", cx: frame.x(value), cy: frame.y(curve.y[index]), r: 4 })));
      return [html("h3", curve.name), frame.root];
    });
    if (parts.length) byId("curves").replaceChildren(...parts); else none("curves", "No data set is large enough for a learning curve.");
  };

  const drawTuning = () => {
    if (!data.tuning.length) { none("tuning", "There is no tuning database."); return; }
    const gains = data.tuning.map((item) => item.gain || 1), largest = most(gains);
    byId("tuning").replaceChildren(shortened(data.tuning, 20, (items) => table(
      "Workloads of the tuning database (measurement): time of the default over that of the best",
      ["workload", ["gain", "left wide-cell"], "", "default µs", "best µs", "of the roofline"],
      items.map((item) => {
        const bar = html("div", "", "bar measurement");
        bar.style.width = `${100 * ((item.gain || 1) - 1) / (largest - 1 || 1)}%`;
        return [item.workload, html("div", [bar], "track"), item.gain == null ? "–" : item.gain.toFixed(2) + "×",
          number(item.default_us), number(item.best_us), percent(item.roofline_share, 0)];
      }), "blocks")));
  };

  const drawRest = () => {
    if (points.length) byId("table").replaceChildren(shortened(points, 25, (items) => table("The front, from the cheapest to the most accurate",
      ["architecture", ["", "left"], "accuracy (prediction)", data.cost_label, "px", "MACs", "parameters", "bytes"],
      items.map((point) => [point.hash, point.mark, percent(point.accuracy), number(point.cost), point.architecture.resolution, count(point.macs), count(point.num_parameters), count(point.size_bytes)]))));
    else none("table", "No points.");
    const flat = (value) => value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value).map(([key, inner]) => `${key} ${typeof inner === "object" ? JSON.stringify(inner) : inner}`).join(", ")
      : typeof value === "object" ? JSON.stringify(value) : value;
    byId("provenance").replaceChildren(table("Where the figures come from", ["what", ["value", "left"]],
      Object.entries(data.provenance).map(([key, value]) => [key.replaceAll("_", " "), flat(value)]), "facts-table"));
    const best = points.find((point) => point.mark === "best"), knee = points.find((point) => point.mark === "knee");
    const tile = (name, point) => point ? [fact(name, percent(point.accuracy), `${number(point.cost, 3)} ${data.cost_label}`)] : [];
    byId("tiles").replaceChildren(fact("points", count(points.length), `of ${count(data.provenance["candidates scored"])} scored`),
      ...tile("most accurate (prediction)", best), ...tile("knee (prediction)", knee),
      ...(data.verified.length ? [fact("measured on the target", count(data.verified.length), "winners")] : []));
    byId("summary").textContent = `Subnets of ${data.space}. Every accuracy is a prediction unless it says measurement.`;
  };

  drawFront();
  drawVerified();
  drawPairs();
  drawEnergy();
  drawCurves();
  drawTuning();
  drawRest();
  document.body.dataset.ready = "yes";
})();
