// Asks the service for the row in the form, as often as it answers, and shows what it said.

const form = find("form");
const fields = makeFields();
const bars = classes.map((one) => {
  const fill = make("span", { class: "fill" });
  const share = make("span", { class: "figures-right" }, "–");
  const truth = make("span", { class: "tag" });
  const name = make("span", { class: "name" }, one.label, truth);
  const root = make("li", {}, name, make("span", { class: "meter", "aria-hidden": "true" }, fill), share);
  return { root, fill, share, truth };
});
let isAsking = false;
let isChanged = false; // since the last question
let golden = null; // index of the test row in the form, until somebody changes it

// The request's body: names with values, but for those that are the column's default anyway.
function readRow() {
  const values = new Array(version.columns.length);
  let isWhole = true;
  for (const field of fields) {
    const read = field.read();
    if (read === null) isWhole = false;
    else field.columns.forEach((index, position) => (values[index] = read[position]));
  }
  if (!isWhole) return null;
  const isNeeded = ({ default: usual, nullable }, index) =>
    usual === undefined ? !(nullable && values[index] === null) : values[index] !== usual;
  const named = version.columns.flatMap((column, index) =>
    isNeeded(column, index) ? [[column.name, values[index]]] : [],
  );
  return Object.fromEntries(named.length ? named : [[version.columns[0].name, values[0]]]);
}

const address = new URL("predict", home);

function writeCurl(body) {
  const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  return `curl -s ${address} \\\n  -H 'content-type: application/json' \\\n  -d ${quote(body)}`;
}

async function ask(body) {
  const started = performance.now();
  const response = await fetch(address, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
    signal: AbortSignal.timeout(15_000), // longer than any deadline that is sensible for one row
  });
  const answer = await response.json();
  return { isGood: response.ok, answer, milliseconds: performance.now() - started };
}

async function predict() {
  if (isAsking) return; // it looks again when it is done
  isAsking = true;
  while (isChanged) {
    isChanged = false;
    const row = readRow();
    if (row === null) { showProblem("One of the values is not complete yet."); continue; }
    const body = JSON.stringify(row);
    find("curl").textContent = writeCurl(body);
    try {
      const { isGood, answer, milliseconds } = await ask(body);
      if (isGood) showAnswer(answer, milliseconds);
      else showProblem(answer.error);
    } catch (error) {
      showProblem(`The service cannot be reached (${error.message}).`);
    }
    await new Promise(requestAnimationFrame); // one question a frame is all that can be seen
  }
  isAsking = false;
}

function askSoon() {
  isChanged = true;
  requestAnimationFrame(predict);
}

function showAnswer({ prediction, label, probabilities, model, version: number }, milliseconds) {
  showProblem("");
  find("class").textContent = label;
  find("share").textContent = showProbability(probabilities[prediction]);
  classes.forEach(({ value }, index) => {
    const { root, fill, share } = bars[index];
    style(fill, "--share", probabilities[value]);
    share.textContent = showProbability(probabilities[value]);
    root.classList.toggle("best", value === prediction);
  });
  const truth = golden === null ? null : classes[version.golden.classes[golden]];
  find("truth").dataset.kind = truth === null ? "" : truth.value === prediction ? "right" : "wrong";
  find("latency").textContent = `${milliseconds.toFixed(1)} ms there and back`;
  find("answered").textContent = `by ${model}@${number}`;
}

function showProblem(text) {
  const problem = find("problem");
  problem.hidden = text === "";
  if (problem.textContent !== text) problem.textContent = text;
  document.body.classList.toggle("stale", text !== "");
  // The longest name in the message is the column that the service means.
  const named = fields.filter(({ columns, name }) => columns.length === 1 && text.includes(name));
  named.sort((a, b) => b.name.length - a.name.length);
  if (named.length) say(named[0], "refused by the service", "wrong");
}

function showTruth() {
  const truth = golden === null ? null : classes[version.golden.classes[golden]];
  bars.forEach(({ truth: tag }, index) => (tag.textContent = classes[index] === truth ? "true class" : ""));
  find("truth").replaceChildren(
    ...(truth ? [`Test row ${golden + 1}: in truth `, make("strong", {}, truth.label)] : ["Your own row"]),
  );
}

function showGolden(index) {
  golden = index;
  for (const field of fields) field.write(version.golden.rows[index]);
  showTruth();
  askSoon();
}

// Another one than is shown, if there is another.
function pickRow() {
  const count = version.golden.rows.length;
  const step = 1 + Math.floor(Math.random() * (count - 1));
  return golden === null || count === 1 ? Math.floor(Math.random() * count) : (golden + step) % count;
}

async function copyCurl() {
  const code = find("curl");
  try {
    await navigator.clipboard.writeText(code.textContent);
    find("copy").textContent = "Copied";
  } catch { // no clipboard but on https and loopback: select it for the keyboard
    getSelection().selectAllChildren(code);
    find("copy").textContent = "Selected";
  }
  setTimeout(() => (find("copy").textContent = "Copy"), 1500);
}

form.append(...fields.map(({ root }) => root));
find("bars").append(...bars.map(({ root }) => root));
for (const kind of ["input", "change"]) {
  form.addEventListener(kind, () => {
    golden = null;
    showTruth();
    askSoon();
  });
}
form.addEventListener("submit", (event) => event.preventDefault());
find("random").addEventListener("click", () => showGolden(pickRow()));
find("copy").addEventListener("click", copyCurl);
showGolden(0);
