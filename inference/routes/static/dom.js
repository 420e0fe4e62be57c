// Small things that every other part of the page uses. What comes from the data becomes text nodes
// and attributes only, never markup.

const version = JSON.parse(document.getElementById("data").textContent);
// Where the service is: as it was set, else where the page is, whatever a proxy has put in front.
const home = new URL(version.root ? `${version.root}/` : ".", location.href);
const SVG = "http://www.w3.org/2000/svg";

const find = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The policy forbids style attributes in markup; properties set from a script are allowed.
function style(element, property, value) {
  element.style.setProperty(property, value);
  return element;
}

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
const showCount = (value) => grouped.format(value);
const showPercent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
// A probability that is not 0 or 1 is not shown as if it were.
const showProbability = (value) =>
  value > 0 && value < 0.0005 ? "< 0.1 %" : value < 1 && value >= 0.9995 ? "> 99.9 %" : showPercent(value);
// A long name may be broken behind its slashes.
const breakable = (text) => text.split(/(?<=\/)/).flatMap((part) => [make("wbr"), part]);
const showName = (name) => name.replaceAll("_", " ").trim() || name;
