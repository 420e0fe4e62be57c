// The form: one field for every raw column, or for a group of columns that are one choice.
//
// A field has the `columns` it stands for (indexes), `read()` (their values, or null if what was typed
// is none), `write(row)` (shows the values of a whole row) and `root`, its element.

const INTEGER = "INT64";

function makeField(columns, name, unit, description, control) {
  const id = `field-${columns[0]}`;
  const label = make("label", { for: id }, showName(name));
  if (unit) label.append(" ", make("span", { class: "unit" }, unit));
  const head = make("div", { class: "head" }, label);
  const note = make("p", { class: "note", id: `${id}-note` });
  const root = make("div", { class: "field", "data-field": name, title: description ?? name }, head, note);
  control.id = id;
  control.setAttribute("aria-describedby", note.id);
  return { columns, root, head, note, control, name };
}

function say(field, text, kind = "") {
  field.note.textContent = text;
  field.root.dataset.kind = text ? kind : "";
  field.control.setAttribute("aria-invalid", String(kind === "wrong" && text !== ""));
}

// A box that says "no value"; gives back whether it is ticked.
function addEmptiness(field, inputs) {
  const box = make("input", { type: "checkbox" });
  box.addEventListener("change", () => inputs.forEach((input) => (input.disabled = box.checked)));
  field.head.append(make("label", { class: "empty" }, box, "leave empty"));
  return {
    isEmpty: () => box.checked,
    set(isEmpty) {
      box.checked = isEmpty;
      inputs.forEach((input) => (input.disabled = isEmpty));
    },
  };
}

const alwaysThere = { isEmpty: () => false, set: () => {} };

// 1, 2 or 5 times a power of ten: a slider of some 200 to 500 steps.
function pickStep(span) {
  const rough = span / 500;
  const power = 10 ** Math.floor(Math.log10(rough));
  return Number((([1, 2, 5].find((factor) => factor * power >= rough) ?? 10) * power).toPrecision(1));
}

function drawHistogram({ edges, heights }) {
  const [low, high] = [edges[0], edges.at(-1)];
  const at = (edge) => ((100 * (edge - low)) / (high - low)).toFixed(2);
  const bars = heights.map((height, bin) => {
    const shown = height && Math.max(height, 3); // a few rows are not none
    return `M${at(edges[bin])} 100V${100 - shown}H${at(edges[bin + 1])}V100Z`;
  });
  const shape = { viewBox: "0 0 100 100", preserveAspectRatio: "none", class: "histogram", "aria-hidden": "true" };
  return makeSvg("svg", shape, makeSvg("path", { d: bars.join("") }));
}

function addSlider(field, column, number) {
  const { minimum, maximum } = column;
  const step = column.type === INTEGER ? 1 : pickStep(maximum - minimum);
  const range = make("input", {
    type: "range", min: minimum, max: maximum, step: column.type === INTEGER ? 1 : "any",
    "aria-label": `${showName(column.name)}, slider`,
  });
  const fill = () => style(range, "--at", (Number(range.value) - minimum) / (maximum - minimum));
  range.addEventListener("input", () => {
    const value = Number(range.value);
    number.value = column.type === INTEGER ? value : Number((Math.round(value / step) * step).toPrecision(12));
    fill();
  });
  const ends = make("div", { class: "ends", "aria-hidden": "true" },
    make("span", {}, showCount(minimum)), make("span", {}, showCount(maximum)));
  const track = make("div", { class: "track" });
  if (column.histogram) track.append(drawHistogram(column.histogram));
  track.append(range);
  field.head.after(track, ends);
  return { range, follow() { range.value = number.value === "" ? minimum : number.value; fill(); } };
}

function makeNumber(column, index) {
  const hasRange = column.minimum !== undefined && column.maximum > column.minimum;
  const number = make("input", { type: "number", step: "any", inputmode: "decimal" });
  const field = makeField([index], column.name, column.unit, column.description, number);
  field.head.append(number);
  const slider = hasRange ? addSlider(field, column, number) : null;
  const emptiness = column.nullable ? addEmptiness(field, slider ? [number, slider.range] : [number]) : alwaysThere;
  field.read = () => {
    if (emptiness.isEmpty()) { say(field, ""); return [null]; }
    const value = number.valueAsNumber;
    if (!Number.isFinite(value)) { say(field, "a number is needed", "wrong"); return null; }
    slider?.follow();
    const isOutside = hasRange && (value < column.minimum || value > column.maximum);
    say(field, isOutside ? "outside of what training saw" : "", "outside");
    return [value];
  };
  field.write = (row) => {
    emptiness.set(row[index] === null);
    number.value = row[index] ?? "";
    slider?.follow();
  };
  return field;
}

// A date or a timestamp, of UTC as all text without an offset is for the service.
function makeMoment(column, index) {
  const isDate = column.type === "date";
  const input = make("input", isDate ? { type: "date" } : { type: "datetime-local", step: "0.001" });
  const field = makeField([index], column.name, column.unit ?? (isDate ? undefined : "UTC"), column.description, input);
  field.head.append(input);
  const emptiness = column.nullable ? addEmptiness(field, [input]) : alwaysThere;
  const asShown = (text) => (isDate ? text : text.replace("Z", "").slice(0, 23));
  let given = null; // by a test row, with more digits of a second than are shown
  field.read = () => {
    if (emptiness.isEmpty()) { say(field, ""); return [null]; }
    const { value } = input;
    if (value === "") { say(field, "a date is needed", "wrong"); return null; }
    const isOutside = value < asShown(column.minimum ?? value) || value > asShown(column.maximum ?? value);
    say(field, isOutside ? "outside of what training saw" : "", "outside");
    return [given?.shown === value ? given.text : value];
  };
  field.write = (row) => {
    const text = row[index];
    emptiness.set(text === null);
    input.value = text === null ? "" : asShown(text);
    given = { text, shown: input.value };
  };
  return field;
}

function makeSwitch(column, index) {
  const box = make("input", { type: "checkbox", role: "switch", class: "switch" });
  const field = makeField([index], column.name, column.unit, column.description, box);
  field.head.append(box);
  const emptiness = column.nullable ? addEmptiness(field, [box]) : alwaysThere;
  field.read = () => [emptiness.isEmpty() ? null : box.checked];
  field.write = (row) => {
    emptiness.set(row[index] === null);
    box.checked = row[index] === true;
  };
  return field;
}

function makeText(column, index) {
  const text = make("input", { type: "text" });
  const field = makeField([index], column.name, column.unit, column.description, text);
  field.head.after(text);
  if (column.categories) {
    const list = make("datalist", { id: `choices-${index}` }, ...column.categories.map((value) => make("option", { value })));
    text.setAttribute("list", list.id);
    field.root.append(list);
  }
  const emptiness = column.nullable ? addEmptiness(field, [text]) : alwaysThere;
  field.read = () => {
    if (emptiness.isEmpty()) { say(field, ""); return [null]; }
    const isListed = !column.categories || column.categories.includes(text.value);
    say(field, isListed ? "" : column.isWhole ? "not seen in training" : "not among the commonest in training", "outside");
    return [text.value];
  };
  field.write = (row) => {
    emptiness.set(row[index] === null);
    text.value = row[index] ?? "";
  };
  return field;
}

function makeChoice({ name, columns }) {
  const select = make("select");
  const field = makeField(columns, name, undefined, undefined, select);
  for (const index of columns) {
    const { name: full, description } = version.columns[index];
    const suffix = full.match(/\d+$/)[0];
    select.append(make("option", { value: index }, description ? `${suffix} · ${description}` : suffix));
  }
  field.head.after(select);
  field.read = () => columns.map((index) => {
    const isChosen = index === Number(select.value);
    return version.columns[index].type === "BOOL" ? isChosen : Number(isChosen);
  });
  // A row has 1 or true in one of them.
  field.write = (row) => (select.value = columns.find((index) => Number(row[index]) === 1));
  return field;
}

function makeFields() {
  const kinds = { BOOL: makeSwitch, BYTES: makeText, date: makeMoment, timestamp: makeMoment };
  const inGroups = new Set(version.groups.flatMap(({ columns }) => columns));
  const singles = version.columns.flatMap((column, index) =>
    inGroups.has(index) ? [] : [(kinds[column.type] ?? makeNumber)(column, index)],
  );
  return [...singles, ...version.groups.map(makeChoice)];
}
