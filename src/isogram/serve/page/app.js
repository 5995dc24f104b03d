// The page: asks this server alone, and shows its answers. What is asked stands in the history, so that "back" works.

import { drawing, element, itemOf, mediaOf, player, title } from "/page/items.js";
import { FORMS, PointMap } from "/page/map.js";
import { canRecord, record } from "/page/record.js";

const at = (id) => document.getElementById(id);
const decimals = (value) => value.toFixed(2).replace(/^(-?)0\./, "$1.");
const asked = new Map(); // answers of this visit, by their number in the history
const visit = Math.random().toString(36).slice(2); // a history entry of an earlier visit has no answer here any more
let site, map, node, recording, from = 0, turn = 0, number = 0, address = "";

async function get(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is isogram serve still running?");
  }
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  const why = { 401: "this server wants its token again; open the address that it printed", 413: "that file is too large" };
  throw new Error(found.error ?? why[answer.status] ?? `the server says ${answer.status}`);
}

const tone = (modality) => site.modalities.indexOf(modality) % FORMS.length;
const dot = (modality) => element("span", { class: `dot m${tone(modality)}` }, drawing(16, [FORMS[tone(modality)]]));
const acts = { onward: (item) => onward(item), failed: (text) => complain(text) };

function complain(text) {
  at("error").textContent = text;
  at("error").hidden = !text;
  if (text) at("error").scrollIntoView({ block: "nearest" });
}

// What is asked

function listNodes() {
  for (const [i, one] of site.nodes.entries()) {
    const radio = element("input", { type: "radio", name: "node", value: i, id: `node-${i}`, change: () => choose(i) });
    at("nodes").append(element("label", { for: `node-${i}` }, radio, dot(one.modality), one.name));
  }
}

function choose(i) {
  node = site.nodes[i];
  at(`node-${i}`).checked = true;
  at("type").hidden = node.asks !== "text";
  at("drop").hidden = node.asks !== "file";
  at("browse").hidden = !node.banks.length;
  at("text-label").textContent = node.kind === "sequence" ? "Letters of a sequence" : "Text";
  const what = { image: "a picture", audio: "a sound", series: "a file of a series" }[node.kind] ?? "a file";
  at("drop-what").textContent = `Drop ${what} here`;
  at("choose").textContent = `Choose ${what}`;
  at("file").accept = { image: "image/*", audio: "audio/*" }[node.kind] ?? "";
  at("record").hidden = node.kind !== "audio" || !canRecord();
  at("browse-title").textContent = node.asks ? "Or take one that is here" : "Take one that is here";
  at("find").value = "";
  shelf();
}

async function shelf(more = false) {
  if (!node.banks.length) return;
  const bank = node.banks[0], mine = ++turn, find = at("find").value;
  from = more ? from : 0;
  try {
    const found = await get(`/api/banks/${bank}/items?start=${from}&find=${encodeURIComponent(find)}`);
    if (mine !== turn) return;
    const list = at("shelf");
    if (!find && !more && node.asks === "text") at("text").placeholder = `Such as: ${title(found.items[0])}`;
    list.className = `items small-items m${tone(node.modality)}${found.items[0]?.media === "image" ? " pictures" : ""}`;
    if (!more) list.replaceChildren();
    list.append(...found.items.map((item) => itemOf(item, site.banks[bank], acts)));
    from += found.items.length;
    at("shelf-of").textContent = found.of ? `${from.toLocaleString("en")} of ${found.of.toLocaleString("en")}`
      : "None of them has these words.";
    at("more").hidden = from >= found.of;
  } catch (error) {
    complain(error.message);
  }
}

// What is answered

async function answer(wait, key) {
  const mine = ++number;
  complain("");
  at("found").setAttribute("aria-busy", "true");
  at("status").textContent = "Searching";
  const slow = setTimeout(() => at("query").replaceChildren(
    element("p", { class: "waits" }, "Searching. The first question takes longer: the encoder is being read.")), 700);
  at("query").hidden = false;
  try {
    const found = await wait, state = { number: `${visit}-${mine}` };
    if (mine !== number) return;
    clearTimeout(slow);
    if (key) history.pushState(state, "", key === true ? location.pathname : key);
    else history.replaceState(state, "");
    asked.set(state.number, found);
    show(found);
    if (key) at("answers").focus(); // what was clicked is gone; this also scrolls there
  } catch (error) {
    if (mine === number) complain(error.message);
  } finally {
    clearTimeout(slow);
    if (mine === number) {
      at("found").removeAttribute("aria-busy");
      at("status").textContent = at("error").hidden ? "Answers are here" : "";
      at("query").querySelector(".waits")?.remove();
    }
  }
}

const near = (bank, row) => get(`/api/banks/${bank}/items/${row}/near`);
const onward = (item) => answer(near(item.bank, item.row), `#${item.bank}/${item.row}`);
const written = (name, text) => get(`/api/near?node=${encodeURIComponent(name)}`,
  { method: "POST", body: text, headers: { "Content-Type": "text/plain" } });

function upload(file) {
  if (file.size > site.limit) return complain(`that is more than ${site.limit / 1e6} MB; take a smaller file`);
  const asking = get(`/api/near?node=${encodeURIComponent(node.name)}`,
    { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
  return answer(asking.then((found) => Object.assign(found, { file, called: file.name ?? "your recording" })), true);
}

function show(found) {
  const query = found.query, mine = query.bank !== undefined;
  const name = mine ? title(query) : query.text || found.called || "your file";
  const parts = [];
  URL.revokeObjectURL(address); // of the file that was shown before; the answer keeps its own for "back"
  address = found.file ? URL.createObjectURL(found.file) : "";
  const source = mine ? mediaOf(query) : address;
  if (query.kind === "image") parts.push(element("img", { src: source, alt: "" }));
  if (query.kind === "audio") parts.push(player(source, name, complain));
  const told = [`from ${query.node}`, query.described, mine && query.label].filter(Boolean).join(" · ");
  parts.push(element("div", {}, element("p", { class: "title" }, name), element("p", { class: "small" }, told)));
  at("query").replaceChildren(element("div", { class: `asked m${tone(modalityOf(query.node))}` }, ...parts));
  at("query").hidden = false;
  at("answers-title").textContent = "Answers";
  at("how").hidden = false;
  const others = found.found.filter((group) => site.banks[group.bank].modality !== modalityOf(query.node));
  const same = found.found.filter((group) => !others.includes(group));
  at("found").replaceChildren(...[...others, ...same].map((group) =>
    groupOf(group.bank, group.hits, group.rank ? `; its partner is number ${group.rank}` : "")));
  map?.show(query, found.found.flatMap((group) => group.hits.slice(0, 5)));
  complain("");
}

const modalityOf = (name) => site.nodes.find((one) => one.name === name)?.modality;

/** A bank, and items of it; on a phone six of them first. */
function groupOf(number, items, told = "") {
  const bank = site.banks[number];
  const heading = element("h3", {}, dot(bank.modality), bank.name,
    element("span", { class: "small" }, `${bank.items.toLocaleString("en")} items${told}`));
  const pictures = items[0]?.media === "image" ? " pictures" : "";
  const folded = items.length > 6 ? " folded" : "";
  const list = element("ul", { class: `items${pictures}${folded}` }, ...items.map((item) => itemOf(item, bank, acts)));
  const more = folded && element("button", { type: "button", class: "fold", click: () => list.classList.remove("folded") },
    `${items.length - 6} more`);
  const none = element("p", { class: "nothing" }, "This bank is empty.");
  return element("section", { class: `group m${tone(bank.modality)}`, "aria-label": bank.name }, heading,
    ...(items.length ? [list, more] : [none]));
}

/** Before the first question: some of what is here. */
async function welcome() {
  const mine = ++number;
  at("query").hidden = true;
  at("how").hidden = true;
  at("answers-title").textContent = "What is here";
  map?.show(null, []);
  complain("");
  if (!site.banks.length) {
    const none = "This site has no banks, so that there is nothing to find. Make some: isogram embed.";
    at("found").replaceChildren(element("p", { class: "nothing" }, none));
    return;
  }
  const some = await Promise.all(site.banks.map((_, i) => get(`/api/banks/${i}/items?start=0`)));
  if (mine === number) at("found").replaceChildren(...some.map(({ items }, i) => groupOf(i, items.slice(0, 5))));
}

async function restore(state) {
  const [, bank, row] = location.hash.match(/^#(\d+)\/(\d+)$/) ?? [];
  if (state && asked.has(state.number)) {
    number += 1;
    show(asked.get(state.number));
  } else if (bank !== undefined) await answer(near(bank, row));
  else await welcome();
}

// What is known beforehand

function drawMap() {
  const shown = site.map.points.some((points) => points.rows.length);
  at("map").hidden = !shown;
  if (!shown) return;
  const [first, second] = site.map.explained.map((share) => `${Math.round(100 * share)}%`);
  at("map-what").textContent = "Every item in the common frame, in the two directions in which items differ most " +
    `(${first} and ${second} of it). A ring marks the question, large dots what was found. Click a dot to search on from it.`;
  for (const modality of new Set(site.banks.map((bank) => bank.modality))) {
    at("map-legend").append(element("li", {}, dot(modality), modality));
  }
  const tones = site.banks.map((bank) => tone(bank.modality));
  let last = 0;
  const told = async (point) => {
    const mine = ++last;
    if (!point) return void (at("map-at").textContent = "\u00a0");
    const name = await named(point);
    if (mine === last) at("map-at").textContent = `${site.banks[point.bank].name}: ${name}`;
  };
  map = new PointMap(at("points"), site.map.points, tones, { onward: acts.onward, told });
}

const names = new Map();

async function named({ bank, row }) {
  const key = `${bank}/${row}`;
  if (!names.has(key)) names.set(key, get(`/api/banks/${bank}/items/${row}`).then(title, () => ""));
  return names.get(key);
}

/** The first column names rows; those from the `numbers`-th on are numbers. */
function table(label, headings, rows, numbers) {
  const cell = (name, i, value, scope) => element(name, { class: i >= numbers ? "num" : "", scope }, value);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, element("table", {},
    element("thead", {}, element("tr", {}, ...headings.map((text, i) => cell("th", i, text, "col")))),
    element("tbody", {}, ...rows.map((row) => element("tr", {},
      ...row.map((text, i) => cell(i ? "td" : "th", i, text, i ? null : "row")))))));
}

function drawStanding() {
  const told = site.standing, place = at("figures");
  if (!told.modalities) {
    place.append(element("p", { class: "nothing" }, "Not known here: start isogram serve with a run's folder to see it."));
    return;
  }
  const trained = told.rounds ? `, then trained for ${told.rounds} rounds` : ", without training";
  place.append(element("div", {},
    element("p", { class: "small" }, `Aligned through ${told.concepts} public anchors${trained}.`),
    table("Modalities", ["modality", "nodes", "encoder", "anchors"], told.modalities.map((one) =>
      [one.name, String(one.nodes.length), one.encoder || "numbers", String(one.anchors ?? "–")]), 3)));
  const held = told.modalities.map((one) => one.name).filter((name) => told.directions[name]);
  if (!held.length) return;
  const what = told.metric === "AUC"
    ? "How often the true partner of a left-out anchor ranks before a random other one (AUC; .5 is chance)."
    : `How often the partner of one of ${told.rows} held-out items is among the first ten found (R@10; chance ` +
      `${decimals(told.chance)}): asked from the row's modality, found in the column's.`;
  const value = (a, b) => a === b ? "" : told.directions[a][b] === undefined ? "–" : decimals(told.directions[a][b]);
  place.append(element("div", {}, element("p", { class: "small" }, what),
    table("Partners found", ["", ...held], held.map((a) => [a, ...held.map((b) => value(a, b))]), 1)));
}

function listen() {
  at("type").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("text").value.trim();
    if (text) answer(written(node.name, text), true);
    else at("text").focus();
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("type").requestSubmit();
    }
  });
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    if (at("file").files.length) upload(at("file").files[0]);
    at("file").value = "";
  });
  const over = (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", event.type === "dragover" && !at("drop").hidden);
  };
  // Anywhere on the page: a file that misses the box must not replace the page.
  for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, over);
  document.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    if (node.asks === "file") upload(file);
    else complain(`${node.name} takes no files; choose a node of pictures or sounds first`);
  });
  at("record").addEventListener("click", async () => {
    if (recording) return recording.stop();
    try {
      recording = await record();
      at("record").setAttribute("aria-pressed", "true");
      at("record").textContent = "Stop and search";
      upload(await recording.done);
    } catch (error) {
      complain(`no recording (${error.message})`);
    } finally {
      recording = null;
      at("record").setAttribute("aria-pressed", "false");
      at("record").textContent = "Record";
    }
  });
  // Whoever just begins to type means the question.
  document.addEventListener("keydown", (event) => {
    const letter = event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (letter && document.activeElement === document.body && !at("type").hidden) at("text").focus();
  });
  let typing;
  at("find").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(shelf, 200);
  });
  at("more").addEventListener("click", () => shelf(true));
  window.addEventListener("popstate", (event) => restore(event.state));
}

try {
  site = await get("/api/site");
  document.title = `${site.name}, an Isogram search`;
  at("name").textContent = site.name;
  at("note").textContent = site.note;
  listNodes();
  drawMap();
  drawStanding();
  listen();
  if (site.nodes.length) choose(Math.max(0, site.nodes.findIndex((one) => one.asks === "text")));
  await restore(null);
} catch (error) {
  at("name").textContent = "Isogram";
  complain(error.message);
}
