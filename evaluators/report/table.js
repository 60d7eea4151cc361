// The table of programs: sorted by any column, filtered by text, base model, family and front.

const PAGE_ROWS = 25;

const COLUMNS = [
  { key: "candidate", head: "candidate",
    show: (p) => make("button", { type: "button", click: () => openPanel(p) }, p.candidate) },
  { key: "model", head: "model", show: (p) => [swatch(p.model, false), " ", p.model] },
  { key: "regime", head: "regime", needed: () => report.models.some((m) => m.regime !== m.label) },
  { key: "task", head: "task", needed: () => report.tasks.length > 1 },
  { key: "run", head: "run", needed: () => report.origins.length > 1 },
  { key: "family", head: "family" },
  { key: "program_bits", head: "program", number: whole },
  { key: "payload_bits", head: "payload", number: whole },
  { key: "net_bits", head: "net bits", number: whole },
  { key: "score", head: "score", number: fixed },
  { key: "lower", head: "95 % interval", number: true, show: (p) => range(p.lower, p.upper) },
  { key: "sealed", head: "sealed bounds", number: true, value: (p) => p.certificate?.lower ?? null,
    show: (p) => (p.certificate ? range(p.certificate.lower, p.certificate.upper) : "–") },
  { key: "certified", head: "certified", show: (p) => yesNo(p.certified, "–") },
  { key: "verified", head: "verified", show: (p) => yesNo(p.verified, unverified(p)) },
  { key: "on_front", head: "front", show: (p) => yesNo(p.on_front, "–") },
  { key: "about", head: "description", show: (p) => make("span", {}, p.about) },
];

function valueOf(column, program) {
  return column.value ? column.value(program) : program[column.key];
}

function classOf(column) {
  return column.number ? "number" : column.key === "about" ? "what" : null;
}

/** Compare two values for sorting; unknown values come last in both directions. */
function compare(one, other, direction) {
  const unknown = [one, other].map((value) => value === null || value === undefined);
  if (unknown[0] || unknown[1]) return Number(unknown[0]) - Number(unknown[1]);
  if (typeof one === "string") return direction * (one < other ? -1 : one > other ? 1 : 0);
  return direction * (Number(one) - Number(other));
}

function programsSection(section) {
  const columns = COLUMNS.filter((column) => !column.needed || column.needed());
  const state = { sort: "program_bits", direction: 1, text: "", model: "", family: "", front: false, rows: PAGE_ROWS };
  const body = make("tbody"), count = make("div", { class: "count", role: "status" });
  const heads = columns.map((column) => make("th", { "aria-sort": "none", class: classOf(column) },
    make("button", {
      type: "button",
      click: () => {
        state.direction = state.sort === column.key ? -state.direction : 1;
        state.sort = column.key;
        fill();
      },
    }, column.head)));

  function found() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    return report.programs.filter((p) => {
      if (!isShown(p.model) || (state.model && p.model !== state.model)) return false;
      if ((state.family && p.family !== state.family) || (state.front && !p.on_front)) return false;
      const text = [p.candidate, p.model, p.regime, p.family, p.task, p.run, p.about, p.prompt].join("\n").toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }

  function fill() {
    const column = columns.find((one) => one.key === state.sort);
    const rows = found().sort((a, b) => compare(valueOf(column, a), valueOf(column, b), state.direction));
    columns.forEach((one, place) => {
      const sorted = one === column ? (state.direction > 0 ? "ascending" : "descending") : "none";
      heads[place].setAttribute("aria-sort", sorted);
    });
    const shown = rows.slice(0, state.rows);
    body.replaceChildren(...shown.map((p) => make("tr", { "data-candidate": p.candidate, "data-model": p.model }, columns.map((one) => {
      const content = one.show ? one.show(p) : one.number ? one.number(p[one.key]) : p[one.key] ?? "–";
      return make("td", { class: classOf(one), title: one.key === "about" ? p.about : null }, content);
    }))));
    const more = rows.length - shown.length;
    count.replaceChildren(
      make("span", {}, `${whole(shown.length)} of ${whole(rows.length)} programs${report.num_completed > report.programs.length ? `; ${whole(report.num_completed)} completed, only those drawn above are listed` : ""}`),
      ...(more > 0 ? [
        make("button", { type: "button", click: () => { state.rows += 100; fill(); } }, `Show ${whole(Math.min(100, more))} more`),
        make("button", { type: "button", click: () => { state.rows = Infinity; fill(); } }, `Show all ${whole(rows.length)}`),
      ] : []));
  }

  const select = (label, values, key) => make("select", {
    "aria-label": label, name: key, change: (event) => { state[key] = event.target.value; fill(); },
  }, make("option", { value: "" }, label), values.map((value) => make("option", { value }, value)));
  const distinct = (key) => [...new Set(report.programs.map((p) => p[key]))].sort();
  section.append(
    make("div", { class: "controls" },
      make("input", { type: "search", placeholder: "Filter by prompt, candidate, family …", "aria-label": "Filter programs by text",
        input: (event) => { state.text = event.target.value; state.rows = PAGE_ROWS; fill(); } }),
      select("all base models", distinct("model"), "model"), select("all families", distinct("family"), "family"),
      make("label", {}, make("input", { type: "checkbox", name: "front", change: (event) => { state.front = event.target.checked; fill(); } }), "only the front")),
    make("div", { class: "scroll" }, make("table", { id: "list" }, make("thead", {}, make("tr", {}, heads)), body)), count);
  drawn(fill);
}
