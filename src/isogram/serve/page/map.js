// The map: a dot for each item, its form and colour saying its modality; on top the question and what was found.

export const FORMS = [
  "M8 1a7 7 0 1 0 .01 0z", "M2 2h12v12H2z", "M8 1l7.5 13.5H.5z", "M8 0l8 8-8 8-8-8z", "M8 15L.5 1.5h15z",
  "M5.5 0h5v5.5H16v5h-5.5V16h-5v-5.5H0v-5h5.5z", "M8 0l8 6-3 10H3L0 6z", "M8 0l2.5 5.5L16 8l-5.5 2.5L8 16l-2.5-5.5L0 8l5.5-2.5z",
];

export class PointMap {
  /** points: of each bank, rows, x and y; tones: of each bank, its number among the colours. */
  constructor(canvas, points, tones, { onward, told }) {
    Object.assign(this, { canvas, points, tones, told, query: null, hits: [], near: null });
    const xs = points.flatMap((p) => p.x), ys = points.flatMap((p) => p.y);
    const [left, right, low, high] = [Math.min(...xs, 1), Math.max(...xs, -1), Math.min(...ys, 1), Math.max(...ys, -1)];
    this.middle = [(left + right) / 2, (low + high) / 2];
    this.reach = Math.max(right - left, high - low, 1e-6) * 1.08;
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("click", (event) => {
      this.point(event);
      if (this.near) onward({ bank: this.near.bank, row: this.near.row });
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(query, hits) {
    Object.assign(this, { query, hits });
    this.draw();
  }

  at(x, y) {
    return [(x - this.middle[0]) / this.reach * this.side + this.side / 2,
      this.side / 2 - (y - this.middle[1]) / this.reach * this.side];
  }

  draw() {
    const side = this.side = this.canvas.clientWidth, dense = window.devicePixelRatio || 1;
    if (!side) return;
    this.canvas.width = this.canvas.height = Math.round(side * dense);
    const pen = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const forms = FORMS.map((form) => new Path2D(form));
    const dot = (x, y, tone, size, alpha) => {
      const [left, top] = this.at(x, y);
      pen.save();
      pen.translate(left - size / 2, top - size / 2);
      pen.scale(size / 16, size / 16);
      pen.globalAlpha = alpha;
      pen.fillStyle = colour(`--m${tone}`);
      pen.fill(forms[tone]);
      pen.restore();
    };
    pen.scale(dense, dense);
    const faint = this.query ? 0.3 : 0.8;
    this.points.forEach((bank, i) => bank.x.forEach((x, j) => dot(x, bank.y[j], this.tones[i], 6, faint)));
    for (const hit of this.hits) dot(hit.x, hit.y, this.tones[hit.bank], 11, 1);
    if (this.near) dot(this.near.x, this.near.y, this.tones[this.near.bank], 13, 1);
    if (this.query) {
      const [left, top] = this.at(this.query.x, this.query.y);
      pen.lineWidth = 2.5;
      for (const [radius, name] of [[11, "--back"], [9, "--ink"]]) {
        pen.strokeStyle = colour(name);
        pen.beginPath();
        pen.arc(left, top, radius, 0, 7);
        pen.stroke();
      }
      pen.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(left + 5 * dx, top + 5 * dy);
        pen.lineTo(left + 14 * dx, top + 14 * dy);
      }
      pen.stroke();
    }
  }

  point(event) {
    const x = event.offsetX, y = event.offsetY;
    let best = null, least = 14 * 14;
    const see = (found) => {
      const [left, top] = this.at(found.x, found.y), away = (left - x) ** 2 + (top - y) ** 2;
      if (away < least) [best, least] = [found, away];
    };
    for (const hit of this.hits) see(hit);
    this.points.forEach((bank, i) => bank.x.forEach((px, j) => see({ bank: i, row: bank.rows[j], x: px, y: bank.y[j] })));
    const changed = best?.bank !== this.near?.bank || best?.row !== this.near?.row;
    this.near = best;
    if (changed) {
      this.told(best);
      this.draw();
    }
  }

  leave() {
    this.near = null;
    this.told(null);
    this.draw();
  }
}
