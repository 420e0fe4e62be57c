// The metrics of the test split, the confusion matrix and the facts about the version.

const { metrics, classes } = version;

function makeBar(share, kind = "") {
  const fill = style(make("span", { class: "fill" }), "--share", share);
  return make("span", { class: `meter ${kind}`, "aria-hidden": "true" }, fill);
}

function showFigures() {
  const { value, low, high } = metrics.accuracy;
  const figures = [
    ["Accuracy", showPercent(value, 2), `95 % interval ${showPercent(low, 2)} to ${showPercent(high, 2)}`],
    ["Log loss", metrics.log_loss.toFixed(3), `nats; ${Math.log(classes.length).toFixed(3)} is knowing nothing`],
    ["Calibration error", showPercent(metrics.ece, 2), "expected, over 15 bins of the top probability"],
  ];
  find("quality-sub").textContent = `Measured on ${showCount(metrics.rows)} rows of the test split, which training never saw.`;
  for (const [name, figure, note] of figures) {
    find("figures").append(
      make("div", { class: "card figure" }, make("h3", {}, name), make("p", {}, figure), make("small", {}, note)),
    );
  }
}

function showBaselines() {
  const others = Object.entries(metrics.baselines).map(([name, value]) => [showName(name), value, ""]);
  const all = [["this version", metrics.accuracy.value, "own"], ...others.sort((a, b) => b[1] - a[1])];
  for (const [name, value, kind] of all) {
    const text = make("span", { class: "figures-right" }, showPercent(value));
    find("baselines").append(make("span", {}, name), makeBar(value, kind), text);
  }
}

function showClasses() {
  const head = ["Class", "Precision", "Recall", "F1", "Rows"].map((name) => make("th", { scope: "col" }, name));
  const rows = classes.map((one) => {
    const measured = metrics.classes[one.value];
    if (!measured) return make("tr", {}, make("th", { scope: "row" }, ...breakable(one.label)), make("td", { colspan: 4 }, "not measured"));
    const { precision, recall, f1, rows } = measured;
    const cells = [precision, recall, f1].map((value) =>
      make("td", {}, make("span", {}, (100 * value).toFixed(1)), makeBar(value, "own")),
    );
    return make("tr", {}, make("th", { scope: "row" }, ...breakable(one.label)), ...cells, make("td", {}, showCount(rows)));
  });
  find("by-class").append(
    make("caption", { class: "hidden" }, "Precision, recall and F1 in percent, and rows, by class"),
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows),
  );
}

function showConfusion() {
  const table = style(find("confusion"), "--classes", classes.length);
  const told = "Rows are the true class, columns the predicted one; the darker, the larger the share of its row.";
  const names = classes.map(({ label }) => make("th", { scope: "col" }, make("span", {}, label)));
  const rows = metrics.confusion.map((counts, truth) => {
    const total = counts.reduce((sum, count) => sum + count, 0);
    const cells = counts.map((count, predicted) => {
      const share = total ? count / total : 0;
      const cell = make("td", { class: truth === predicted ? "right" : "" }, showCount(count));
      cell.dataset.told =
        `${classes[truth].label} called ${classes[predicted].label}: ${showCount(count)} of ` +
        `${showCount(total)} rows, ${showPercent(share)}`;
      return style(cell, "--share", share.toFixed(4));
    });
    return make("tr", {}, make("th", { scope: "row" }, ...breakable(classes[truth].label)), ...cells);
  });
  table.append(
    make("caption", { class: "hidden" }, `Confusion matrix. ${told}`),
    make("thead", {}, make("tr", {}, make("td", { class: "corner" }, "true ╲ predicted"), ...names)),
    make("tbody", {}, ...rows),
  );
  find("cell").textContent = told;
  table.addEventListener("pointerover", ({ target }) => {
    find("cell").textContent = target.closest("[data-told]")?.dataset.told ?? told;
  });
  table.addEventListener("pointerleave", () => (find("cell").textContent = told));
}

function showAbout() {
  for (const [name, value] of version.about) {
    let shown = value;
    if (name === "Created") {
      const options = { dateStyle: "long", timeStyle: "short", timeZone: "UTC" };
      const date = new Date(value);
      const text = Number.isNaN(date.valueOf()) ? value : `${date.toLocaleString("en-GB", options)} UTC`;
      shown = make("time", { datetime: value }, text);
    } else if (/^[0-9a-f]{32,}$/.test(value)) {
      shown = make("code", { title: value }, `${value.slice(0, 12)}…`);
    }
    find("about").append(make("div", {}, make("dt", {}, name), make("dd", {}, shown)));
  }
}

showFigures();
showBaselines();
showClasses();
showConfusion();
showAbout();
