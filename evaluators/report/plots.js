// The plots that Plotly draws: the front of each task, its growth, and the candidates of each rung.

const CONFIG = {
  displaylogo: false,
  responsive: true,
  // Otherwise quick clicks on two points count as a double click, which changes the visible range.
  doubleClick: "reset",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  toImageButtonOptions: { format: "svg" },
};

function narrow() {
  return document.documentElement.clientWidth < 600;
}

/** Return the common layout of all plots, in the colours of the theme. */
function layoutOf(extra) {
  const axis = {
    gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, showline: true,
    ticks: "outside", tickcolor: css("--line"), automargin: true, title: { standoff: 10 },
  };
  const { xaxis = {}, yaxis = {}, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: css("font-family") || "system-ui, sans-serif", size: narrow() ? 11 : 13, color: css("--ink") },
    // The top margin has room for the buttons, which would otherwise hide points at the top.
    margin: { l: 48, r: 12, t: 38, b: 44 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--ink") },
    showlegend: false,
    hovermode: "closest",
    // On a phone a finger scrolls the page.
    dragmode: narrow() ? false : "zoom",
    xaxis: merged(axis, xaxis), yaxis: merged(axis, yaxis),
    ...rest,
  };
}

function merged(axis, own) {
  return { ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } };
}

const STEPS = [[1], [1, 3], [1, 2, 5], [1, 2, 3, 5, 7], [1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]];

/** Return the multiples of powers of ten between two lengths. */
function stepsBetween(low, high, steps) {
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) powers.push(10 ** power);
  return powers.flatMap((power) => steps.map((step) => step * power)).filter((value) => value >= Math.max(1, low) && value <= high);
}

/** Return ticks of a logarithmic axis of bits: decades, and steps between where there are few. */
function bitTicks(low, high, zero) {
  const wanted = narrow() ? 3 : 5;
  const tickvals = STEPS.map((steps) => stepsBetween(low, high, steps)).find((ticks) => ticks.length >= wanted)
    ?? stepsBetween(low, high, STEPS.at(-1));
  const ticktext = tickvals.map(bitsLabel);
  if (zero !== null) {
    // A logarithmic axis has no 0 bits: draw this length left of all others.
    const kept = tickvals.map((value, place) => [value, ticktext[place]]).filter(([value]) => value > 1.5 * zero);
    return { tickvals: [zero, ...kept.map(([v]) => v)], ticktext: ["0 bit", ...kept.map(([, t]) => t)] };
  }
  return { tickvals, ticktext };
}

/** Return the range of lengths of a task's plot, and the position of a length of 0 bits. */
function spanOf(task, published) {
  const bits = [
    ...report.programs.filter((p) => p.task === task.name).map((p) => p.bits),
    ...published.map((p) => p.bits),
  ];
  const positive = bits.filter((value) => value > 0);
  const least = Math.min(...positive), most = Math.max(...positive);
  if (!positive.length) return { low: 0.5, high: 100, zero: bits.length ? 1 : null };
  const zero = positive.length < bits.length ? least / 4 : null;
  const room = Math.max(1.12, (most / least) ** 0.06);
  return { low: (zero ?? least) / room, high: most * room, zero };
}

function publishedOf(task) {
  return report.overlay.filter((point) => point.task === null || point.task === task.name);
}

function drawFront(task, plot) {
  const published = publishedOf(task);
  const span = spanOf(task, published);
  const at = (bits) => (bits > 0 ? bits : span.zero);
  const traces = [];
  for (const label of shownModels(task.models)) {
    const own = report.programs.filter((p) => p.task === task.name && p.model === label);
    const front = own.filter((p) => p.on_front).sort((a, b) => a.bits - b.bits);
    const others = own.filter((p) => !p.on_front);
    traces.push(othersTrace(label, others, at), stairsTrace(label, front, at, span.high));
    traces.push(frontTrace(label, front, at), dotsTrace(label, front, at), readOffTrace(label, task, at));
  }
  traces.push(...publishedTraces(published, at));
  const shapes = task.targets.map((target) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: target, y1: target,
    line: { color: css("--soft"), width: 1, dash: "dot" },
  }));
  const annotations = task.targets.map((target) => ({
    xref: "paper", x: 1, xanchor: "right", y: target, yanchor: "top", showarrow: false,
    text: `δ = ${target}`, font: { size: 11, color: css("--soft") },
    // A curve may pass behind it.
    bgcolor: css("--sheet"), borderpad: 1,
  }));
  const what = report.length === "program" ? "program.py and payload.bin" : "payload.bin";
  const layout = layoutOf({
    shapes, annotations,
    xaxis: {
      type: "log", range: [Math.log10(span.low), Math.log10(span.high)],
      title: { text: narrow() ? "length" : `length of ${what}` }, ...bitTicks(span.low, span.high, span.zero),
    },
    yaxis: { range: [-0.04, 1.04], title: { text: narrow() ? "score" : "score on the search split" }, tickformat: ".1f" },
  });
  Plotly.react(plot, traces, layout, CONFIG);
  if (!plot.dataset.listening) listen(plot, span);
}

function othersTrace(label, programs, at) {
  const { colour, symbol } = styleOf(label);
  return {
    type: "scatter", mode: "markers", name: plain(`${label}, others`), customdata: programs,
    x: programs.map((p) => at(p.bits)), y: programs.map((p) => p.score), hoverinfo: "none",
    marker: { color: colour, symbol, size: 5, opacity: 0.35 }, meta: { model: label, kind: "others" },
  };
}

function stairsTrace(label, front, at, right) {
  const { colour, dash } = styleOf(label);
  const last = front.at(-1);
  return {
    type: "scatter", mode: "lines", name: plain(`${label}, front`), hoverinfo: "skip",
    x: last ? [...front.map((p) => at(p.bits)), right] : [],
    y: last ? [...front.map((p) => p.score), last.score] : [],
    line: { color: colour, width: 2, dash, shape: "hv" }, meta: { model: label, kind: "stairs" },
  };
}

function frontTrace(label, front, at) {
  const { colour, symbol } = styleOf(label);
  return {
    type: "scatter", mode: "markers", name: plain(label), customdata: front, hoverinfo: "none",
    x: front.map((p) => at(p.bits)), y: front.map((p) => p.score),
    error_y: {
      type: "data", symmetric: false, color: colour, thickness: 1.2, width: 3,
      array: front.map((p) => (p.upper === null ? 0 : p.upper - p.score)),
      arrayminus: front.map((p) => (p.lower === null ? 0 : p.score - p.lower)),
    },
    marker: {
      symbol, size: 11, opacity: 1,
      color: front.map((p) => (p.certified === true ? colour : css("--sheet"))),
      line: { color: colour, width: 2 },
    },
    meta: { model: label, kind: "front" },
  };
}

/** Return dots in the points that are certified, but not at the largest target they reach. */
function dotsTrace(label, front, at) {
  const dotted = front.filter((p) => p.certified !== true && p.certified_at !== null);
  return {
    type: "scatter", mode: "markers", name: plain(`${label}, certified at a lower target`), hoverinfo: "skip",
    x: dotted.map((p) => at(p.bits)), y: dotted.map((p) => p.score),
    marker: { color: styleOf(label).colour, symbol: "circle", size: 4 }, meta: { model: label, kind: "dots" },
  };
}

/** Return marks on the lines of the targets where the certified complexity is read off. */
function readOffTrace(label, task, at) {
  const read = task.needed.filter((row) => row.asked && row.certified[label] !== null && row.certified[label] !== undefined);
  return {
    type: "scatter", mode: "markers", name: plain(`${label}, certified complexity`),
    x: read.map((row) => at(row.certified[label])), y: read.map((row) => row.target),
    text: read.map((row) => plain(`${label}: C(δ = ${row.target}) ≤ ${whole(row.certified[label])} bits, certified`)),
    hovertemplate: "%{text}<extra></extra>",
    marker: { symbol: "line-ns", size: 16, line: { color: styleOf(label).colour, width: 3 } },
    meta: { model: label, kind: "read" },
  };
}

function publishedTraces(published, at) {
  const labels = [...new Set(published.map((point) => point.label))];
  const symbols = ["x-thin", "cross-thin", "asterisk", "y-up"];
  return labels.map((label, number) => {
    const points = published.filter((p) => p.label === label).sort((a, b) => a.bits - b.bits);
    return {
      type: "scatter", mode: "lines+markers", name: plain(label), meta: { kind: "published" },
      x: points.map((p) => at(p.bits)), y: points.map((p) => p.score),
      text: points.map((p) => plain(`${label} (published): ${bitsLabel(p.bits)}, score ${fixed(p.score)}`)),
      hovertemplate: "%{text}<extra></extra>",
      error_y: {
        type: "data", symmetric: false, color: css("--soft"), thickness: 1, width: 3,
        array: points.map((p) => (p.upper === null ? 0 : p.upper - p.score)),
        arrayminus: points.map((p) => (p.lower === null ? 0 : p.score - p.lower)),
      },
      line: { color: css("--soft"), width: 1.2, dash: ["dot", "dash", "dashdot", "longdash"][number % 4] },
      marker: { symbol: symbols[number % 4], size: 8, line: { color: css("--soft"), width: 1.6 } },
    };
  });
}

/** Show a summary of the program under the pointer, and all details after a click. */
function listen(plot, span) {
  plot.dataset.listening = "yes";
  const programAt = (event) => {
    const data = event.points[0]?.customdata;
    return data && data.candidate ? data : null;
  };
  plot.on("plotly_hover", (event) => {
    const program = programAt(event);
    if (program && event.event) showHover(program, event.event);
  });
  plot.on("plotly_unhover", hideHover);
  plot.on("plotly_click", (event) => {
    const program = programAt(event);
    if (program) openPanel(program);
  });
  plot.on("plotly_relayout", (change) => {
    // The visible range has changed, so its ticks have to change too.
    if (!("xaxis.range[0]" in change)) return;
    const [low, high] = [change["xaxis.range[0]"], change["xaxis.range[1]"]].map((power) => 10 ** power);
    const { tickvals, ticktext } = bitTicks(low, high, span.zero);
    Plotly.relayout(plot, { "xaxis.tickvals": tickvals, "xaxis.ticktext": ticktext });
  });
}

function drawCourse(plot, along) {
  const shown = report.courses.filter((course) => isShown(course.model));
  const several = report.tasks.length > 1, runs = report.origins.length > 1;
  const traces = shown.map((course) => {
    const { colour, dash, symbol } = styleOf(course.model);
    const name = [course.model, several && course.task, runs && course.run].filter(Boolean).join(", ");
    return {
      type: "scatter", mode: "lines+markers", name: plain(name), x: course[along], y: course.hypervolume,
      line: { color: colour, width: 2, dash, shape: "hv" },
      // The first point is the beginning, the last the end: nothing was found there.
      marker: { color: colour, symbol, size: course.hypervolume.map((_, n) => (n && n < course.hypervolume.length - 1 ? 6 : 0)) },
      hovertemplate: `${plain(name)}<br>%{x:,.0f} ${along === "examples" ? "examples" : "s"}: %{y:.2f}<extra></extra>`,
      meta: { model: course.model, kind: "course" },
    };
  });
  const layout = layoutOf({
    xaxis: { rangemode: "tozero", nticks: 6, title: { text: along === "examples" ? "examples scored" : "seconds of search" }, tickformat: along === "examples" ? "~s" : "" },
    yaxis: { rangemode: "tozero", nticks: 6, title: { text: "hypervolume" } },
  });
  Plotly.react(plot, traces, layout, CONFIG);
}

const OUTCOMES_OF_ALL = [
  { key: "went_on", name: "promoted, or completed the last rung", pattern: "", opacity: 1 },
  { key: "stopped", name: "stopped", pattern: "/", opacity: 1 },
  { key: "failed", name: "failed", pattern: "x", opacity: 1 },
  { key: "coarser", name: "coarser versions of those that completed", pattern: ".", opacity: 1 },
];
const OUTCOMES = OUTCOMES_OF_ALL.filter(({ key }) => key !== "coarser" || report.rungs.some((row) => row.coarser));

function drawRungs(plot) {
  const rungs = [...new Map(report.rungs.map((row) => [`${row.rung}/${row.num_examples}`, row])).values()]
    .sort((a, b) => a.rung - b.rung || a.num_examples - b.num_examples);
  const nameOf = (row) => `${row.rung}<br>${whole(row.num_examples)}`;
  const labels = [...models.keys()].filter((label) => report.rungs.some((row) => row.model === label));
  const traces = shownModels(labels).flatMap((label) => OUTCOMES.map((outcome) => {
    const { colour } = styleOf(label);
    const counts = rungs.map((rung) => report.rungs
      .filter((row) => row.model === label && row.rung === rung.rung && row.num_examples === rung.num_examples)
      .reduce((sum, row) => sum + row[outcome.key], 0));
    return {
      type: "bar", name: plain(`${label}: ${outcome.name}`), offsetgroup: label,
      x: rungs.map(nameOf), y: counts,
      marker: {
        color: outcome.pattern ? css("--sheet") : colour, line: { color: colour, width: 1.2 },
        pattern: { shape: outcome.pattern, fgcolor: colour, bgcolor: css("--sheet"), size: 6, solidity: 0.35 },
      },
      hovertemplate: `${plain(label)}: %{y:,} ${plain(outcome.name)}<extra></extra>`,
      meta: { model: label, kind: "rungs" },
    };
  }));
  const layout = layoutOf({
    barmode: "stack", bargap: 0.25, bargroupgap: 0.08,
    xaxis: { type: "category", title: { text: "rung and its examples" }, showgrid: false },
    yaxis: { rangemode: "tozero", nticks: 6, title: { text: "candidates" } },
  });
  Plotly.react(plot, traces, layout, CONFIG);
}
