// One program: a summary beside the pointer, and all details in a panel.

const hoverCard = document.getElementById("hover");
const panel = document.getElementById("panel");

/** Return the name of the length before "bits"; net bits are unknown without a bare question. */
function lengthName(program) {
  return report.length === "program" || (report.length === "net" && program.net_bits === null) ? "" : `${report.length} `;
}

function headline(program) {
  const several = report.tasks.length > 1 ? `, ${program.task}` : "";
  return `${whole(program.bits)} ${lengthName(program)}bits · ${modelName(program.model)}${several}`;
}

/** Return the text for a program that is not verified: programs off the front never are. */
function unverified(program) {
  return program.on_front ? "not yet" : "–";
}

function standing(program) {
  const texts = { yes: "verified", no: "not verified", "not yet": "not yet verified", "–": "off the front, so not verified" };
  const verified = texts[yesNo(program.verified, unverified(program))];
  const certified = program.certified_at !== null ? `certified at δ = ${program.certified_at}` : program.certificate ? "not certified" : "not run on the sealed split";
  return [verified, certified];
}

function sectionsText(program) {
  if (!program.sections) return null;
  return Object.entries(program.sections).map(([name, bytes]) => `${SECTIONS[name].name} ${whole(bytes)}`).join(", ") + " bytes";
}

function showHover(program, event) {
  const text = program.prompt.trim() ? make("p", { class: "text" }, program.prompt) : make("p", { class: "soft" }, "no prompt");
  hoverCard.replaceChildren(...[
    make("p", {}, make("strong", {}, headline(program))),
    make("p", {}, `score ${fixed(program.score)} (${range(program.lower, program.upper)}), ${standing(program).join(", ")}`),
    make("p", { class: "soft" }, program.about),
    text,
    sectionsText(program) ? make("p", { class: "soft" }, sectionsText(program)) : null,
    program.folder ? make("p", { class: "soft" }, folderText(program)) : null,
  ].filter(Boolean));
  hoverCard.hidden = false;
  const { width, height } = hoverCard.getBoundingClientRect();
  const room = { x: document.documentElement.clientWidth, y: window.innerHeight };
  const left = event.clientX + 16 + width > room.x ? event.clientX - 16 - width : event.clientX + 16;
  const top = event.clientY + 16 + height > room.y ? event.clientY - 16 - height : event.clientY + 16;
  hoverCard.style.left = `${Math.max(8, Math.min(left, room.x - width - 8))}px`;
  hoverCard.style.top = `${Math.max(8, top)}px`;
}

/** Return a program's folder, relative to the page if it links there, so that both may move. */
function folderText(program) {
  try {
    return program.link ? decodeURI(program.link) : program.folder;
  } catch {
    // The name is not UTF-8.
    return program.link;
  }
}

function hideHover() {
  hoverCard.hidden = true;
}

/** Return the course of the mean reward over the generations of a training by reward. */
function rewardPart(rewards) {
  if (!rewards.length) return [];
  const across = (at) => 4 + 292 * at / Math.max(1, rewards.length - 1);
  const points = rewards.map((reward, at) => `${across(at).toFixed(1)},${(56 - 52 * reward).toFixed(1)}`).join(" ");
  const text = `mean reward on train examples over ${whole(rewards.length)} generations: ${fixed(rewards[0])} at first, ${fixed(rewards.at(-1))} at last, ${fixed(Math.max(...rewards))} at most`;
  return [make("h3", {}, "Training by reward"), make("p", {}, text),
    svg("svg", { width: 300, height: 60, viewBox: "0 0 300 60", role: "img", "aria-label": text },
      svg("polyline", { points, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }))];
}

function certificateText(program) {
  const sealed = program.certificate;
  if (!sealed) return "The program was not run on the sealed split.";
  if (sealed.score === null) return "The program failed on the sealed split.";
  const repeated = sealed.repeated ? " The sealed split had been opened before for other programs." : "";
  return `Sealed split: score ${fixed(sealed.score)} on ${whole(sealed.num_examples)} examples, bounds ${range(sealed.lower, sealed.upper)}. ` +
    `The bounds of ${sealed.num_programs} programs hold at once with probability ${sealed.level}.${repeated}`;
}

function bytesPart(program) {
  if (!program.sections) return [];
  const all = totalBytes(program);
  const rows = Object.entries(program.sections).flatMap(([name, bytes]) => {
    const { name: text, colour, pattern } = SECTIONS[name];
    const codec = { prompt: program.codecs.prompt, numbers: program.codecs.adapter, examples: program.codecs.data }[name];
    return [
      make("span", {}, codec ? `${text} (${codec})` : text),
      make("span", { class: "bar" }, make("span", { style: { width: `${(100 * bytes) / all}%`, ...filled(colour, pattern) } })),
      make("span", { class: "end" }, `${whole(bytes)} bytes`),
    ];
  });
  return [make("h3", {}, `Bytes: ${whole(all)}`), make("div", { class: "bars" }, rows)];
}

function folderPart(program) {
  if (program.link) return make("a", { href: program.link }, program.folder);
  return program.folder;
}

function openPanel(program) {
  hideHover();
  const [verified, certified] = standing(program);
  const tag = (text, value) => make("span", { class: `tag ${value === true ? "yes" : value === false ? "no" : ""}` }, text);
  const close = make("button", { type: "button", click: () => panel.close() }, "Close");
  panel.replaceChildren(...[
    make("header", {}, make("h2", {}, headline(program)), close),
    make("p", {}, program.about),
    make("div", { class: "tags" },
      tag(verified, program.verified), tag(certified, program.certificate ? program.certified === true || (program.certified_at !== null ? null : false) : null),
      tag(program.on_front ? "on the front" : "not on the front", null)),
    facts([
      ["score", `${fixed(program.score)} (${range(program.lower, program.upper)}) on ${whole(program.num_examples)} examples of the search split`],
      ["distinct outputs", program.num_distinct === null ? "not counted" : whole(program.num_distinct)],
      ["program bits", whole(program.program_bits)], ["payload bits", whole(program.payload_bits)], ["net bits", whole(program.net_bits)],
      ["candidate", program.candidate], ["proposed by", program.operator], ["made from", program.parent],
      ["family", program.family], ["task", program.task], ["run", program.run], ["folder", folderPart(program)],
      ["can't be read", program.trouble],
    ]),
    make("h3", {}, "Certificate"), make("p", {}, certificateText(program)),
    make("h3", {}, program.exact_prompt ? "Prompt text of the payload" : "Prompt text, without the task's template"),
    program.prompt ? make("pre", { class: "prompt" }, program.prompt) : make("p", { class: "note" }, "none"),
    ...rewardPart(program.rewards),
    ...bytesPart(program),
    ...(program.script ? [make("h3", {}, "program.py before it was shortened"), make("pre", { class: "script" }, program.script),
      make("details", {}, make("summary", {}, "program.py as counted"), make("pre", {}, program.counted))] : []),
    ...(program.recipe ? [make("h3", {}, "Recipe"), make("pre", { class: "recipe" }, program.recipe)] : []),
    program.sections ? null : make("p", { class: "note" }, "The report reads the files of programs on a front only; those of this program are in the ledger of its run."),
  ].filter(Boolean));
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
}

/** Show a summary of the program under the pointer, and all details after a click. */
function listen(plot) {
  if (plot.dataset.listening) return;
  plot.dataset.listening = "yes";
  const programAt = (event) => report.programs[event.points[0]?.customdata];
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
    const { tickvals, ticktext } = bitTicks(low, high, plot.layout.meta.zero);
    Plotly.relayout(plot, { "xaxis.tickvals": tickvals, "xaxis.ticktext": ticktext });
  });
}

panel.addEventListener("click", (event) => {
  // A click on the page behind the panel closes it.
  if (event.target === panel && event.clientX < panel.getBoundingClientRect().left) panel.close();
});
window.addEventListener("scroll", hideHover, { passive: true });
