// The tables and bars of the page: needed bits, reasons, composition, scorecard, provenance.

function modelName(label) {
  const regime = models.get(label)?.regime;
  return regime && regime !== label ? `${label} (${regime})` : label;
}

/** Return the table of bits that each shown base model needs for some scores. */
function neededTable(task, rows) {
  const labels = shownModels(task.models);
  const cell = (row, label) => {
    const found = row.found[label], certified = row.certified[label];
    const text = found === null ? "not reached" : whole(found);
    const below = certified === null ? "not certified" : `certified ${whole(certified)}`;
    return make("td", { class: "number" }, text, make("br"), make("small", {}, below));
  };
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, make("th", {}, "base model"),
      rows.map((row) => make("th", { class: "number" }, `score ≥ ${row.target}`)))),
    make("tbody", {}, labels.map((label) => make("tr", {},
      make("td", {}, swatch(label), " ", modelName(label)),
      rows.map((row) => cell(row, label)))))));
}

/** Return a factor as text; below 1 the second model needs more bits, so there is no collapse. */
function factorText(factor) {
  return factor < 1 ? `needs ${(1 / factor).toFixed(2)} times as many bits` : factor.toFixed(2);
}

const LENGTHS = ["program", "payload", "net"];

function collapseTable(task) {
  const shown = task.collapses.filter((one) => isShown(one.before) && isShown(one.after));
  if (!shown.length) return null;
  return make("div", {},
    make("h3", {}, "Collapse between base models"),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {},
        make("th", {}, "score"), make("th", {}, "between"),
        LENGTHS.map((length) => make("th", { class: "number" }, `factor by ${length} bits`)),
        make("th", { class: "number" }, "information ≤"))),
      make("tbody", {}, shown.map((one) => make("tr", {},
        make("td", {}, `≥ ${one.target}`),
        make("td", {}, swatch(one.before, false), " ", one.before, make("br"), swatch(one.after, false), " ", one.after),
        LENGTHS.map((length) => make("td", { class: "number" },
          length in one.factors ? [factorText(one.factors[length]), make("br"), make("small", {}, one.certified ? "certified" : "found")] : "–")),
        make("td", { class: "number" }, whole(one.information))))))),
    make("p", { class: "note" },
      "In bits. The last column is an upper bound, proven as far as the score of its program is: the first model with that " +
      "program does the task, so the second model holds no more information about the task that the first lacks. A factor " +
      "says how many times fewer bits the second model needs. It compares the programs found; shorter ones may exist for either model."));
}

function frontSection(task) {
  const several = report.tasks.length > 1;
  const plot = make("div", { class: "plot", role: "img", "aria-label": `Length against score on ${task.name}` });
  const needed = make("div");
  const hidden = make("div");
  const others = report.programs.filter((p) => p.task === task.name && !p.on_front).length;
  const completed = Object.values(task.num_completed).reduce((sum, count) => sum + count, 0);
  const fronts = report.programs.filter((p) => p.task === task.name && p.on_front).length;
  const sampled = fronts + others < completed
    ? ` ${whole(completed)} programs completed the last rung. The plot shows the ${whole(fronts)} on the fronts and ${whole(others)} of the others: a uniform sample with all that are certified.`
    : "";
  const section = make("section", { class: "front" },
    make("h2", {}, several ? `Length against score: ${task.name}` : "Length against score"),
    plot,
    frontKey(task),
    task.lacking.length ? make("p", { class: "note" }, `Not shown here: ${task.lacking.join(", ")}. The ledger has no program of the bare question, so net bits are unknown.`) : "",
    make("p", { class: "note" },
      `Score with its 95 % interval against ${report.length} bits. Intervals do not correct for choosing the best of many; certificates do.${sampled} Hover over a point for a summary, or click it for the whole program.`),
    ...(task.models.length ? [make("h3", {}, `Bits of the shortest program${several ? "" : ` on ${task.name}`}`), needed, hidden] : [publishedTable(task)]));
  const figure = report.plots.fronts[report.tasks.indexOf(task)];
  drawn(() => drawPlot(plot, figure));
  drawn(() => listen(plot));
  drawn(() => {
    const asked = task.needed.filter((row) => row.asked), rest = task.needed.filter((row) => !row.asked);
    needed.replaceChildren(neededTable(task, asked));
    const opened = hidden.querySelector("details")?.open;
    const more = rest.length
      ? make("details", { open: opened }, make("summary", {}, "at other scores"), neededTable(task, rest)) : null;
    hidden.replaceChildren(...[more, collapseTable(task)].filter(Boolean));
  });
  return section;
}

/** Return the table of the published points of a task, where no run has any. */
function publishedTable(task) {
  const points = report.overlay.filter((point) => point.task === null || point.task === task.name);
  const rows = [...points].sort((a, b) => (a.label < b.label ? -1 : a.label > b.label ? 1 : a.bits - b.bits));
  return make("details", { open: rows.length < 100 }, make("summary", {}, `${whole(rows.length)} published points on fronts`),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, make("th", {}, "curve"), ...["bits", "score", "interval"].map((head) => make("th", { class: "number" }, head)))),
      make("tbody", {}, rows.map((point) => make("tr", {},
        make("td", {}, point.label), make("td", { class: "number" }, whole(point.bits)),
        make("td", { class: "number" }, fixed(point.score)),
        make("td", { class: "number" }, point.lower === null || point.upper === null ? "–" : range(point.lower, point.upper))))))));
}

function frontKey(task) {
  const dot = (attributes) => svg("svg", { width: 14, height: 14, "aria-hidden": "true" },
    svg("circle", { cx: 7, cy: 7, r: 5, stroke: "currentColor", "stroke-width": 1.6, fill: "none", ...attributes }));
  const tick = svg("svg", { width: 14, height: 14, "aria-hidden": "true" },
    svg("line", { x1: 7, y1: 1, x2: 7, y2: 13, stroke: "currentColor", "stroke-width": 3 }));
  const entries = [
    [dot({ fill: "currentColor" }), "on the front, certified at the largest target it reaches"],
    [svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, ...dot({}).children, ...dot({ r: 2, fill: "currentColor", stroke: "none" }).children), "certified at a lower target"],
    [dot({}), "not certified"],
    [dot({ r: 3, stroke: "none", fill: "currentColor", "fill-opacity": 0.4 }), "other completed programs"],
    [tick, "certified complexity at a target"],
  ].slice(task.models.length ? 0 : Infinity);
  const published = [...new Set(report.overlay.filter((point) => point.task === null || point.task === task.name).map((point) => point.label))];
  if (published.length) {
    const cross = svg("svg", { width: 26, height: 14, "aria-hidden": "true" },
      svg("path", { d: "M0 7h26M9 3l8 8M17 3l-8 8", stroke: "currentColor", "stroke-width": 1.4, fill: "none" }));
    entries.push([cross, `published: ${published.join(", ")}`]);
  }
  return make("ul", { class: "key" }, entries.map(([mark, text]) => make("li", {}, mark, make("span", {}, text))));
}

/** Append the table of results; without any row the section is not shown. */
function resultsSection(section) {
  const [heads, ...rows] = report.results;
  if (!rows.length) return section.remove();
  const number = (place) => (place > 4 && place < heads.length - 1) || place === 2 ? "number" : null;
  section.append(
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, heads.map((head, place) => make("th", { class: number(place) }, head)))),
      make("tbody", {}, rows.map((cells) => make("tr", {}, cells.map((cell, place) => make("td", { class: number(place) }, cell))))))),
    make("p", { class: "note" },
      `The shortest certified program in ${report.length} bits for each target, else the shortest verified one. The four columns before the candidate are factors: the bits of another way over those of the program. ` +
      "LoRA: 16 bits for each number of the smallest adapter of rank 1 here that reaches the target on the search split. PEFT: the least bytes of its file for the smallest LoRA that does. " +
      "Full fine-tuning: 16 bits for each parameter, a count and no measurement. Random model: its shortest program that does. A dash: nothing here reaches the target, or it is unknown. Bare score: that of the question alone, on so many examples."));
}

function courseSection(section) {
  if (!report.courses.length && !report.rungs.length) {
    section.append(make("p", { class: "note" }, "No rung has finished yet."));
    return;
  }
  const grown = make("div", { class: "plot low", role: "img", "aria-label": "Hypervolume over the search" });
  const rungs = make("div", { class: "plot low", role: "img", "aria-label": "Candidates of each rung" });
  let along = "examples";
  const draw = () => drawPlot(grown, report.plots[along]);
  const axis = choice("Along", [["examples", "examples"], ["seconds", "seconds"]], along, (value) => { along = value; draw(); });
  const chips = report.plots.rungs.layout.meta.outcomes.map(([name, pattern]) => make("li", {},
    make("span", { class: "chip", style: chipStyle(pattern) }), make("span", {}, name)));
  section.append(make("div", { class: "pair" },
    make("div", {}, make("div", { class: "headline" }, make("h3", {}, "Area below the front"), axis), grown,
      make("p", { class: "note" }, "Hypervolume: how much length and score the front covers so far. It grows whenever a program scores better than all earlier programs that are not longer. Its unit is doublings of length, up to 2²⁶ bits, times score. Pauses between attempts are left out of the seconds; an example counts only if an answer was generated for it.")),
    make("div", {}, make("div", { class: "headline" }, make("h3", {}, "Candidates of each rung")), rungs,
      make("ul", { class: "key" }, chips))));
  drawn(draw);
  drawn(() => drawPlot(rungs, report.plots.rungs));
  tallySection(section, "Why candidates were stopped", report.reasons, "No candidate was stopped.");
  if (report.errors.length) tallySection(section, "How candidates failed", report.errors, "");
}

function chipStyle(pattern) {
  const lines = {
    "/": "repeating-linear-gradient(-45deg, currentColor 0 1.5px, transparent 1.5px 5px)",
    x: "repeating-linear-gradient(-45deg, currentColor 0 1px, transparent 1px 5px), repeating-linear-gradient(45deg, currentColor 0 1px, transparent 1px 5px)",
    ".": "radial-gradient(currentColor 1px, transparent 1.2px) 0 0 / 5px 5px",
  };
  return { border: "1px solid currentColor", background: pattern ? lines[pattern] : "currentColor" };
}

/** Append a bar per reason with the number of candidates of the shown base models. */
function tallySection(section, title, counts, nothing) {
  const bars = make("div", { class: "reasons" });
  section.append(make("h3", {}, title), bars);
  drawn(() => {
    const shown = counts.filter((one) => isShown(one.model));
    const totals = new Map();
    shown.forEach((one) => totals.set(one.reason, (totals.get(one.reason) ?? 0) + one.count));
    const rows = [...totals].sort((a, b) => b[1] - a[1]);
    const most = Math.max(1, ...totals.values());
    bars.replaceChildren(...rows.flatMap(([reason, total]) => [
      make("span", { class: "text" }, reason),
      make("span", { class: "bar", "aria-hidden": "true" }, [...models.keys()].map((label) => {
        const count = shown.filter((one) => one.reason === reason && one.model === label).reduce((sum, one) => sum + one.count, 0);
        return count ? make("span", { style: { width: `${(100 * count) / most}%`, background: styleOf(label).colour }, title: `${label}: ${whole(count)}` }) : null;
      })),
      make("span", { class: "end" }, whole(total)),
    ]));
    if (!rows.length) bars.replaceChildren(make("span", { class: "text" }, nothing));
  });
}

/** Return the segments of a bar, one per section, as shares of `all` bytes. */
function segments(program, all) {
  return Object.entries(program.sections).filter(([, bytes]) => bytes).map(([name, bytes]) => {
    const { name: text, colour, pattern } = SECTIONS[name];
    return make("span", {
      style: { width: `${(100 * bytes) / all}%`, ...filled(colour, pattern) }, title: `${text}: ${whole(bytes)} bytes`,
    });
  });
}

function totalBytes(program) {
  return Object.values(program.sections).reduce((sum, bytes) => sum + bytes, 0);
}

function compositionSection(section) {
  const programs = report.programs.filter((p) => p.on_front && p.sections);
  if (!programs.length) {
    section.append(make("p", { class: "note" }, "No program on a front has files that could be read."));
    return;
  }
  const bars = make("div", { class: "bars" });
  const used = Object.entries(SECTIONS).filter(([name]) => programs.some((p) => p.sections[name]));
  let share = false;
  const draw = () => {
    const shown = programs.filter((p) => isShown(p.model));
    const most = Math.max(...shown.map(totalBytes));
    const groups = new Map();
    shown.forEach((p) => groups.set(`${p.task}\n${p.model}`, [...(groups.get(`${p.task}\n${p.model}`) ?? []), p]));
    bars.replaceChildren(...[...groups.values()].flatMap((own) => [
      make("div", { class: "group" }, swatch(own[0].model),
        report.tasks.length > 1 ? `${modelName(own[0].model)}, ${own[0].task}` : modelName(own[0].model)),
      ...own.sort((a, b) => a.bits - b.bits).flatMap((p) => [
        make("button", { type: "button", click: () => openPanel(p), title: p.about }, `score ${fixed(p.score, 2)}`),
        make("span", { class: "bar" }, segments(p, share ? totalBytes(p) : most)),
        make("span", { class: "end" }, `${whole(totalBytes(p))} bytes`),
      ]),
    ]));
  };
  section.append(
    make("div", { class: "headline" },
      make("ul", { class: "key" }, used.map(([, { name, colour, pattern }]) => {
        const chip = make("span", { class: "chip" });
        drawn(() => Object.assign(chip.style, filled(colour, pattern)));
        return make("li", {}, chip, make("span", {}, name));
      })),
      choice("Bars show", [[false, "bytes"], [true, "share"]], share, (value) => { share = value; draw(); })),
    bars,
    make("p", { class: "note" }, "Bytes of both files of each program. Every program includes a program.py, of which the call of the chat template is shown apart; prompt text, scales and numbers are sections of payload.bin."));
  drawn(draw);
}

function scorecardSection(section) {
  if (!report.scorecard) {
    section.append(make("p", { class: "note" }, "Nothing was measured yet. Run `kilobit scorecard RUN`, then make the report again."));
    return;
  }
  const lines = report.scorecard.filter((line) => line.tag === null);
  const items = [...new Set(lines.filter((line) => line.change !== null).map((line) => line.item))];
  const missing = [...new Set(lines.map((line) => line.item))].filter((item) => !items.includes(item));
  const largest = new Map(items.map((item) => [item,
    Math.max(0.05, ...lines.filter((line) => line.item === item).map((line) => Math.abs(line.change ?? 0)))]));
  const table = make("table", { class: "heat" });
  drawn(() => {
    const groups = new Map();
    lines.filter((line) => isShown(line.model)).forEach((line) => {
      const key = `${line.run}\n${line.task}\n${line.model}`;
      if (!groups.has(key)) groups.set(key, new Map());
      const own = groups.get(key);
      own.set(line.candidate, [...(own.get(line.candidate) ?? []), line]);
    });
    const head = make("tr", {}, make("th", { class: "row" }, "bits, own score"), items.map((item) => make("th", { class: "item" }, item)));
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, [...groups.values()].flatMap((own) => {
      const first = [...own.values()][0][0];
      return [
        make("tr", { class: "group" }, make("th", { class: "row" }, swatch(first.model), ` ${modelName(first.model)}`), make("th", { colspan: items.length })),
        ...[...own.values()].map((cells) => heatRow(cells, items, largest)),
      ];
    })));
  });
  section.append(make("div", { class: "scroll" }, table),
    make("p", { class: "note" },
      "Change against the bare base model on the same examples. Blue is better, orange is worse; a deeper colour is closer to the largest change of the column; ▲ helps and ▼ harms beyond noise, over all comparisons at once. Hover over a cell for its interval."),
    missing.length ? make("p", { class: "note" }, `No values for ${missing.join(", ")}.`) : "");
}

function heatRow(cells, items, largest) {
  const line = cells[0];
  return make("tr", {},
    make("th", { class: "row", title: line.candidate }, `${whole(line.program_bits)}, ${fixed(line.own_score, 2)}`),
    items.map((item) => heatCell(cells.find((cell) => cell.item === item), largest.get(item))));
}

function heatCell(line, largest) {
  if (!line || line.error !== null || line.change === null) {
    return make("td", { class: "cell", title: line?.error ?? null }, make("small", {}, line?.error ? "failed" : "–"));
  }
  const better = line.better === "lower" ? -line.change : line.change;
  const share = Math.min(1, Math.abs(better) / largest);
  const colour = better >= 0 ? "0 114 178" : "230 110 0";
  const mark = { helps: " ▲", harms: " ▼" }[line.verdict] ?? "";
  const text = line.change === 0 ? "0" : `${line.change > 0 ? "+" : "−"}${Math.abs(line.change).toFixed(Math.abs(line.change) < 0.01 ? 3 : 2)}`;
  const about = `${line.item}: ${fixed(line.base)} without, ${fixed(line.value)} with; change ${range(line.lower, line.upper)} on ${whole(line.num_examples)} examples`;
  return make("td", {
    class: "cell", title: about, style: { background: `rgb(${colour} / ${Math.round(share * (dark() ? 62 : 48))}%)` },
  }, text, make("span", { class: "mark" }, mark));
}

function facts(pairs) {
  return make("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function originSection(section) {
  for (const origin of report.origins) {
    if (report.origins.length > 1) section.append(make("h3", {}, origin.run));
    section.append(
      facts([["folder", origin.folder], ...origin.facts]),
      make("h3", {}, "Commands"),
      make("div", { class: "scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ["attempt", "command", "started", "host"].map((head) => make("th", {}, head)))),
        make("tbody", {}, origin.attempts.map((one) => make("tr", {},
          make("td", {}, String(one.attempt ?? "–")), make("td", {}, make("code", {}, one.command || "–")),
          make("td", {}, one.started_at ?? "–"), make("td", {}, one.host ?? "–")))))),
      make("h3", {}, "Base models"),
      make("div", { class: "scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ["model", "regime", "from", "weights", "type", "parameters", "digest of the weights"].map((head) => make("th", {}, head)))),
        make("tbody", {}, origin.models.map((one) => make("tr", {},
          make("td", {}, one.model), make("td", {}, one.regime), make("td", {}, one.from), make("td", {}, one.weights),
          make("td", {}, `${one.dtype}, ${one.device}`), make("td", {}, whole(one.parameters)),
          make("td", {}, make("code", {}, one.digests.join(", ") || "–"))))))),
      make("h3", {}, "Versions"),
      facts(Object.entries(origin.versions)),
      make("details", {}, make("summary", {}, "the whole sweep, as JSON"), make("pre", {}, origin.sweep)));
  }
}
