// Asks the probe every two seconds which version is live and how much it has answered.

const EVERY_MS = 2000;
const KEPT = 60; // two minutes
const rates = [];
let last = null;

function showDuration(seconds) {
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, parts.findIndex(([, size]) => seconds >= size));
  let left = Math.floor(seconds);
  return (seconds < 1 ? parts.slice(3) : parts.slice(first, first + 2))
    .map(([unit, size]) => {
      const count = Math.floor(left / size);
      left -= count * size;
      return `${count} ${unit}`;
    })
    .join(" ");
}

function drawRates() {
  const highest = Math.max(1, ...rates);
  const points = rates.map((rate, index) => {
    const x = 120 - (120 * (rates.length - 1 - index)) / (KEPT - 1);
    return `${x.toFixed(1)} ${(30 - (28 * rate) / highest).toFixed(1)}`;
  });
  const line = `M${points.join("L")}`;
  const first = points[0].split(" ")[0];
  find("spark").querySelector(".line").setAttribute("d", line);
  find("spark").querySelector(".area").setAttribute("d", `${line}L120 32L${first} 32Z`);
}

function showRate(requests) {
  const now = performance.now();
  if (last !== null && requests >= last.requests) {
    const rate = (1000 * (requests - last.requests)) / (now - last.at);
    rates.push(rate);
    rates.splice(0, rates.length - KEPT);
    find("rate").textContent = rate < 10 ? rate.toFixed(1) : showCount(Math.round(rate));
    drawRates();
  }
  last = { requests, at: now };
}

function showProbe(probe) {
  const name = `${probe.model}@${probe.version}`;
  const isSame = probe.model === version.model && probe.version === version.version;
  find("moved").hidden = isSame;
  find("moved-name").textContent = name;
  find("state").textContent = name;
  find("requests").textContent = showCount(probe.requests);
  find("predictions").textContent = showCount(probe.predictions);
  find("uptime").textContent = showDuration(probe.uptime_s);
  showRate(probe.requests);
  showRegistry(probe.registry);
}

function showRegistry(registry) {
  find("unconfirmed").hidden = !registry;
  if (!registry) return;
  const since = registry.failing_since;
  find("unconfirmed-since").textContent = since ? ` since ${new Date(since).toLocaleString()}` : "";
  const cached = registry.from_cache.join(", ");
  find("unconfirmed-cached").textContent = cached ? `${cached} comes from the cache. ` : "";
}

function showReach(isReached) {
  const was = find("dot").dataset.state;
  find("dot").dataset.state = isReached ? "live" : "lost";
  if (!isReached) find("state").textContent = "not answering";
  if (isReached && was === "lost") askSoon();
}

async function look() {
  try {
    const response = await fetch(home, {
      headers: { accept: "application/json" },
      signal: AbortSignal.timeout(2 * EVERY_MS),
    });
    if (response.ok) showProbe(await response.json());
    showReach(response.ok);
  } catch {
    showReach(false);
  }
  setTimeout(look, EVERY_MS);
}

find("reload").addEventListener("click", () => location.reload());
look();
