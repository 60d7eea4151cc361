"use strict";
// Shared by all parts of the page: the data, the base models that are hidden, the theme, plots, and
// elements that are made of text nodes, so that no text of a run becomes markup.

const report = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const redraws = [];

// Black and dark blue of the palette can't be seen on a dark page.
const ON_DARK = new Map([["#000000", "#F2F2F2"], ["#0072B2", "#3A9BDC"]]);
const SECTIONS = {
  script: { name: "program.py", colour: "#56B4E9", pattern: "" },
  template: { name: "call of the chat template", colour: "#F0E442", pattern: "dots" },
  prompt: { name: "prompt text", colour: "#E69F00", pattern: "rising" },
  scales: { name: "scales and steps", colour: "#CC79A7", pattern: "dots" },
  numbers: { name: "adapter numbers", colour: "#009E73", pattern: "falling" },
  examples: { name: "training examples", colour: "#0072B2", pattern: "upright" },
};

const models = new Map(report.models.map((model) => [model.label, model]));

/** Return an element. Text children become text nodes; functions become listeners. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function dark() {
  return document.documentElement.dataset.theme === "dark";
}

function styleOf(label) {
  const number = models.get(label)?.style ?? 0;
  const [colour, symbol, dash] = [report.colours, report.plots.symbols, report.plots.dashes].map((all) => all[number % all.length]);
  return { colour: themed(colour), symbol, dash };
}

/** Return a colour of the palette or the name of a CSS variable as it is in the theme. */
function themed(value) {
  const name = /^var\(([\w-]+)\)$/.exec(value)?.[1];
  return name ? css(name) : (dark() && ON_DARK.get(value)) || value;
}

function isShown(model) {
  return !hidden.has(model);
}

function shownModels(labels) {
  return labels.filter(isShown);
}

/** Draw a part once it is in the page, and whenever the shown base models or the theme change. */
function drawn(draw) {
  redraws.push(draw);
}

function redraw() {
  redraws.forEach((draw) => draw());
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const MARKS = {
  circle: "M11 7a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
  square: "M11 3h8v8h-8z",
  diamond: "M15 2l5 5-5 5-5-5z",
  "triangle-up": "M15 2l5 9H10z",
  "triangle-down": "M15 12l5-9H10z",
  cross: "M13.5 2h3v3.5H20v3h-3.5V12h-3V8.5H10v-3h3.5z",
  x: "M11.5 2L15 5.5 18.5 2 20 3.5 16.5 7 20 10.5 18.5 12 15 8.5 11.5 12 10 10.5 13.5 7 10 3.5z",
};

/** Return the line with the marker of a base model in the plots, or its marker alone. */
function swatch(label, withLine = true) {
  const { colour, symbol, dash } = styleOf(label);
  const mark = svg("path", { d: MARKS[symbol], fill: colour });
  const size = { class: "swatch", height: 14, "aria-hidden": "true" };
  if (!withLine) return svg("svg", { ...size, width: 12, viewBox: "9 0 12 14" }, mark);
  const dashes = { solid: "none", dash: "6 3", dashdot: "6 3 2 3", dot: "2 3" }[dash] ?? "7 3 2 3";
  const line = svg("line", {
    x1: 0, y1: 7, x2: 30, y2: 7, stroke: colour, "stroke-width": 2, "stroke-dasharray": dashes,
  });
  return svg("svg", { ...size, width: 30 }, line, mark);
}

/** Return CSS for a bar in a colour with a pattern, so that bars also differ in grey print. */
function filled(colour, pattern) {
  const stripe = dark() ? "rgb(0 0 0 / 45%)" : "rgb(255 255 255 / 60%)";
  const images = {
    rising: `repeating-linear-gradient(-45deg, ${stripe} 0 2px, transparent 2px 7px)`,
    falling: `repeating-linear-gradient(45deg, ${stripe} 0 2px, transparent 2px 7px)`,
    upright: `repeating-linear-gradient(90deg, ${stripe} 0 2px, transparent 2px 6px)`,
    dots: `radial-gradient(${stripe} 1.4px, transparent 1.6px) 0 0 / 6px 6px`,
  };
  return { background: pattern ? `${images[pattern]}, ${colour}` : colour };
}

// Numbers as text; an unknown value is a dash.
function whole(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
}

function fixed(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function range(lower, upper) {
  return lower === null || upper === null ? "–" : `${fixed(lower)} – ${fixed(upper)}`;
}

function yesNo(value, unknown) {
  return value === null || value === undefined ? unknown : value ? "yes" : "no";
}

/** Return a row of buttons of which one is pressed. */
function choice(label, options, chosen, onChange) {
  const buttons = options.map(([value, text]) =>
    make("button", {
      type: "button",
      "aria-pressed": String(value === chosen),
      click: (event) => {
        buttons.forEach((button) => button.setAttribute("aria-pressed", "false"));
        event.currentTarget.setAttribute("aria-pressed", "true");
        onChange(value);
      },
    }, text));
  return make("span", { class: "choice", role: "group", "aria-label": label }, buttons);
}

function narrow() {
  return document.documentElement.clientWidth < 600;
}

/** Return ticks of a logarithmic axis of bits: decades, and steps between where there are few. */
function bitTicks(low, high, zero) {
  const levels = report.plots.ticks.map((level) => level.filter(([bits]) => bits >= low && bits <= high));
  const ticks = levels.find((level) => level.length >= (narrow() ? 3 : 5)) ?? levels.at(-1);
  // The position of 0 bits is left of all other lengths.
  const kept = zero === null ? ticks : [[zero, "0 bit"], ...ticks.filter(([bits]) => bits > 1.5 * zero)];
  return { tickvals: kept.map(([bits]) => bits), ticktext: kept.map(([, text]) => text) };
}

/** Draw a figure of the report in the theme, at the page's width and without hidden base models. */
function drawPlot(plot, figure) {
  const { data, layout } = JSON.parse(JSON.stringify(figure), (_, value) => (typeof value === "string" ? themed(value) : value));
  const { xaxis, yaxis, meta } = layout;
  if (narrow()) {
    layout.font.size = 11;
    // On a phone a finger scrolls the page.
    layout.dragmode = false;
    xaxis.title.text = meta?.xaxis ?? xaxis.title.text;
    yaxis.title.text = meta?.yaxis ?? yaxis.title.text;
  }
  if (xaxis.type === "log") Object.assign(xaxis, bitTicks(...xaxis.range.map((power) => 10 ** power), meta.zero));
  // Otherwise quick clicks on two points count as a double click, which changes the visible range.
  const config = { displaylogo: false, responsive: true, doubleClick: "reset", toImageButtonOptions: { format: "svg" } };
  config.modeBarButtonsToRemove = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"];
  Plotly.react(plot, data.filter((trace) => isShown(trace.meta.model)), layout, config);
}
