// Items as people see them: a picture, a button that plays a sound, or words. Text is set as text, never as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function drawing(size, ...paths) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", `0 0 ${size} ${size}`);
  made.setAttribute("aria-hidden", "true");
  for (const [d, name] of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    if (name) path.setAttribute("class", name);
    made.append(path);
  }
  return made;
}

/** What an item is called: its text, or its id. */
export const title = (item) => item.text || item.id || "untitled";

export const mediaOf = (item) => `/media/${item.bank}/${item.row}`;

const speaker = new Audio();
let playing = null;

function silence() {
  speaker.pause();
  playing?.setAttribute("aria-pressed", "false");
  playing = null;
}
speaker.addEventListener("ended", silence);

/** A button that plays a sound; one sound at a time. */
export function player(source, name, failed) {
  const go = ["M4 2l10 6-10 6z", "go"];
  const stop = ["M3 3h10v10H3z", "stop"];
  const button = element("button", {
    type: "button",
    class: "play",
    "aria-label": `Play ${name}`,
    "aria-pressed": "false",
    click: async () => {
      const again = playing === button;
      silence();
      if (again) return;
      speaker.src = source;
      playing = button;
      button.setAttribute("aria-pressed", "true");
      try {
        await speaker.play();
      } catch (error) {
        if (playing !== button || error.name === "AbortError") return;
        silence();
        failed(`${name} cannot be played here (${error.message})`);
      }
    },
  }, drawing(16, go, stop));
  return button;
}

/** One item of a list: a button that searches on from it, beside it one that plays it. */
export function itemOf(item, group, { onward, failed }) {
  const name = title(item);
  const parts = [];
  if (item.media === "image") {
    const image = element("img", { src: mediaOf(item), alt: "", loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.replaceWith(element("span", { class: "caption" }, "no picture")));
    parts.push(image);
  }
  parts.push(element("span", { class: "title" }, name));
  if (item.label) parts.push(element("span", { class: "caption" }, item.label));
  if (item.right) parts.push(element("span", { class: "mark" }, "✓ its partner"));
  if (item.cosine !== undefined) {
    const bar = element("i"), cosine = item.cosine.toFixed(2);
    bar.style.width = `${Math.round(100 * Math.max(0, Math.min(1, item.cosine)))}%`;
    const number = element("span", { class: "number", title: `corrected for hubs ${item.score.toFixed(2)}` },
      element("span", { class: "hidden" }, "cosine "), cosine);
    parts.push(element("span", { class: "measure" }, element("span", { class: "bar", "aria-hidden": "true" }, bar), number));
  }
  const button = element("button", { type: "button", class: "hit", title: item.id || name, click: () => onward(item) },
    ...parts, element("span", { class: "hidden" }, `, ${group.name}: search on from it`));
  button.dataset.at = `${item.bank}/${item.row}`;
  const list = element("li", { class: item.right ? "right" : "" });
  if (item.media === "audio") list.append(player(mediaOf(item), `${name}, ${group.name}`, failed));
  list.append(button);
  return list;
}
