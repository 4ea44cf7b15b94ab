
"use strict";
// Reads out every visible curve at the place of the pointer. The values come from the curves' own points.
(() => {
  const parse = (element) => element ? element.getAttribute("points").trim().split(" ").map((p) => p.split(",").map(Number)) : [];
  const numbers = (svg, name) => svg.dataset[name].split(" ").map(Number);
  const short = (x) => { const text = Math.abs(x) >= 1000 ? x.toFixed(0) : x.toPrecision(4); return String(Number(text)); };

  function show(svg, event) {
    const box = svg.getBoundingClientRect(), figure = svg.closest("figure"), scale = svg.viewBox.baseVal.width / box.width;
    const [left, right, top, bottom] = numbers(svg, "frame"), xMax = Number(svg.dataset.x), [low, high] = numbers(svg, "y");
    const at = (event.clientX - box.left) * scale;
    hide(figure);
    if (at < left - 8 || at > right + 8) return;
    const cut = Number(svg.dataset.cut || Infinity);
    const scaled = (pixel) => low + (bottom - pixel) / (bottom - top) * (high - low);
    const y = svg.dataset.log ? (pixel) => 10 ** scaled(pixel) : scaled;
    const say = (value) => value >= cut * 0.9999 ? "at least " + short(cut) : short(value);
    const found = [];
    for (const group of svg.querySelectorAll(".series")) {
      if (getComputedStyle(group).display === "none") continue;
      const line = group.querySelector(".line"), points = parse(line);
      if (!points.length) continue;
      let near = 0;
      points.forEach((p, i) => { if (Math.abs(p[0] - at) < Math.abs(points[near][0] - at)) near = i; });
      const band = parse(group.querySelector(".band")), [px, py] = points[near];
      const spread = band.length ? [band[2 * points.length - 1 - near][1], band[near][1]].map(y) : null;
      found.push({ label: group.dataset.label, colour: line.getAttribute("stroke"), px, py, spread });
    }
    if (!found.length) return;
    const names = svg.dataset.names.split("|"), nearest = found.reduce((a, b) => Math.abs(b.px - at) < Math.abs(a.px - at) ? b : a);
    const tip = document.createElement("div");
    tip.className = "tip";
    const row = (colour, text) => {
      const line = document.createElement("div");
      if (colour) { const square = document.createElement("i"); square.style.background = colour; line.append(square); }
      line.append(text);
      tip.append(line);
    };
    row(null, names[0] + ": " + short((nearest.px - left) / (right - left) * xMax));
    for (const { label, colour, px, py, spread } of found) {
      const elsewhere = Math.abs(px - nearest.px) > 1 ? " at " + short((px - left) / (right - left) * xMax) : "";
      row(colour, label + ": " + say(y(py)) + (spread ? " (" + say(spread[0]) + " to " + say(spread[1]) + ")" : "") + elsewhere);
      const dot = document.createElementNS(svg.namespaceURI, "circle");
      for (const [name, value] of Object.entries({ cx: px, cy: py, r: 5, fill: "none", stroke: colour, "stroke-width": 2, class: "dot" })) dot.setAttribute(name, value);
      svg.append(dot);
    }
    figure.append(tip);
    const x = event.clientX - box.left, width = figure.clientWidth;
    tip.style.left = Math.max(0, Math.min(x + 14, width - tip.offsetWidth)) + "px";
    tip.style.top = Math.max(0, event.clientY - figure.getBoundingClientRect().top - tip.offsetHeight - 12) + "px";
  }

  function hide(figure) {
    figure.querySelectorAll(".tip, .dot").forEach((element) => element.remove());
  }

  document.addEventListener("pointermove", (event) => {
    const svg = event.target.closest ? event.target.closest("svg[data-frame]") : null;
    document.querySelectorAll("figure").forEach((figure) => { if (!svg || !figure.contains(svg)) hide(figure); });
    if (svg) show(svg, event);
  });
  document.addEventListener("pointerleave", () => document.querySelectorAll("figure").forEach(hide));
})();
