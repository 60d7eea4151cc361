// Builds the page, and handles the switches for base models and theme.

const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
let chosenTheme = null;

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  themeButton.textContent = theme === "dark" ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Change to ${theme === "dark" ? "light" : "dark"} colours`);
}

function currentTheme() {
  return chosenTheme ?? (wantsDark.matches ? "dark" : "light");
}

themeButton.addEventListener("click", () => {
  chosenTheme = dark() ? "light" : "dark";
  useTheme(chosenTheme);
  redraw();
});
wantsDark.addEventListener("change", () => { useTheme(currentTheme()); redraw(); });

// Print in light colours and at the width of the paper.
window.addEventListener("beforeprint", () => {
  useTheme("light");
  redraw();
  document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, { width: plot.classList.contains("low") ? 335 : 690, height: plot.classList.contains("low") ? 320 : 460 }));
});
window.addEventListener("afterprint", () => {
  useTheme(currentTheme());
  redraw();
  document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, { width: null, height: null, autosize: true }));
});

let wasNarrow = narrow();
window.addEventListener("resize", () => {
  if (narrow() === wasNarrow) return;
  wasNarrow = narrow();
  redraw();
});

function regimeBar(nav) {
  for (const { label } of report.models) {
    const mark = make("span");
    drawn(() => mark.replaceChildren(swatch(label)));
    const box = make("input", {
      type: "checkbox", checked: true, value: label,
      change: (event) => {
        if (event.target.checked) hidden.delete(label);
        else hidden.add(label);
        row.classList.toggle("off", !event.target.checked);
        redraw();
      },
    });
    const row = make("label", {}, box, mark, modelName(label));
    nav.append(row);
  }
}

function completedText() {
  const drawn = report.num_completed - report.num_coarser;
  const candidates = `${whole(drawn)} ${drawn === 1 ? "candidate" : "candidates"}`;
  if (!report.num_coarser) return candidates;
  return `${candidates}, with ${whole(report.num_coarser)} coarser ${report.num_coarser === 1 ? "version" : "versions"},`;
}

function aboutText() {
  const fronts = report.programs.filter((p) => p.on_front).length;
  const certified = report.programs.filter((p) => p.certified_at !== null).length;
  const tasks = report.tasks.map((task) => task.name).join(", ");
  if (!report.origins.length) return `${tasks} · ${whole(report.overlay.length)} published points on fronts, none of them run here · made ${report.made_at}`;
  return `${tasks} · ${completedText()} completed the last rung, ${whole(fronts)} on a front, ${whole(certified)} certified at some target · made ${report.made_at}`;
}

useTheme(currentTheme());
document.getElementById("about").textContent = aboutText();
regimeBar(document.getElementById("regimes"));
const fronts = document.getElementById("fronts");
for (const task of report.tasks) fronts.append(frontSection(task));
resultsSection(document.getElementById("results"));
const sections = {
  course: courseSection, composition: compositionSection, scorecard: scorecardSection,
  programs: programsSection, origin: originSection,
};
for (const [name, fill] of Object.entries(sections)) {
  const section = document.getElementById(name);
  // Published points alone: no run has a course, programs or an origin.
  if (report.origins.length) fill(section);
  else section.remove();
}
redraw();
document.documentElement.dataset.ready = "yes";
