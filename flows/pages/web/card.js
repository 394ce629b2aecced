// One sequence of a player: its texts, its canvas, and what is written over the skeleton.
"use strict";
(() => {
  const { Figure } = skelstream;
  const NEAR = 18; // pixels from a joint that names it

  function make(name, facts = {}, ...inside) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(facts)) key in made ? (made[key] = value) : made.setAttribute(key, value);
    made.append(...inside.filter((one) => one !== null && one !== undefined));
    return made;
  }

  class Card {
    constructor(sequence, skeleton, player) {
      this.sequence = sequence;
      this.player = player;
      this.figure = new Figure(skeleton, sequence);
      this.visible = true;
      this.hover = null;
      this.frame = -1;
      const { title, caption, tone, lines, note } = sequence;
      const label = `${title}: skeleton; arrow keys or dragging turn all, + and - zoom, space plays`;
      this.canvas = make("canvas", { tabIndex: 0, role: "img", "aria-label": label });
      this.told = make("output", { "aria-live": "off" });
      const list = lines && lines.length ? make("ul", {}, ...lines.map((text) => make("li", {}, text))) : null;
      const mark = tone ? make("span", { className: "sk-tone" }, tone === "right" ? "✓ right" : "✗ wrong") : null;
      this.element = make("figure", { className: "sk-card" },
        make("figcaption", {}, make("strong", {}, title), caption ? make("span", {}, caption) : null, mark),
        this.canvas, make("div", { className: "sk-told" }, this.span(), this.told, list, note));
      if (tone) this.element.dataset.tone = tone;
    }

    // which part of the stored sample is seen, and where in it the moment is
    span() {
      const { at, of } = this.sequence;
      if (!at || !of) return null;
      const low = Math.min(...at), high = Math.max(...at);
      this.needle = make("b");
      const part = make("i", { style: `left: ${(100 * low) / of}%; width: ${(100 * (high - low + 1)) / of}%` });
      return make("div", { className: "sk-span" }, part, this.needle);
    }

    tell(frame) {
      if (frame === this.frame) return;
      this.frame = frame;
      const { at, of, count } = this.sequence;
      this.told.textContent = `frame ${frame} of ${count}` + (at ? ` \u00b7 sample frame ${at[frame]}${of ? " of " + of : ""}` : "");
      if (this.needle) this.needle.style.left = (100 * (at[frame] + 0.5)) / of + "%";
    }

    draw(stage, time, exact, colours, names) {
      const { count, mark } = this.sequence, moment = Math.min(count - 1e-6, time * count);
      this.tell(Math.floor(moment));
      const bodies = this.figure.bodies(exact ? Math.floor(moment) : moment);
      const about = { ...this.figure.about, radius: this.player.radius };
      this.spots = stage.draw(this.canvas, this.player.camera, about, bodies, this.player.skeleton, colours, mark);
      const pen = this.canvas.getContext("2d");
      if (mark) ring(pen, this.spots.find((spot) => spot.person === mark.person && spot.joint === mark.joint), colours);
      if (names) write(pen, this.spots, this.player.skeleton.names, colours, this.canvas);
      else if (this.hover) write(pen, nearest(this.spots, this.hover), this.player.skeleton.names, colours, this.canvas);
    }
  }

  function ring(pen, spot, colours) {
    if (!spot) return;
    pen.strokeStyle = colours.ring;
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.arc(spot.x, spot.y, 8, 0, 7);
    pen.stroke();
  }

  function nearest(spots, [x, y]) {
    const far = (spot) => Math.hypot(spot.x - x, spot.y - y);
    return spots.filter((spot) => far(spot) < NEAR).sort((a, b) => far(a) - far(b)).slice(0, 1);
  }

  // names that find room beside their joint, from the first on
  function write(pen, spots, names, colours, canvas) {
    const taken = [];
    pen.font = "600 11px system-ui, sans-serif";
    pen.lineWidth = 3.5;
    pen.lineJoin = "round";
    for (const { joint, x, y } of spots) {
      const width = pen.measureText(names[joint]).width, left = x + 7 + width > canvas.clientWidth ? x - 7 - width : x + 7;
      const box = [left, y - 7, left + width, y + 6];
      if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      pen.strokeStyle = colours.halo;
      pen.fillStyle = colours.ink;
      pen.strokeText(names[joint], left, y + 4);
      pen.fillText(names[joint], left, y + 4);
    }
  }

  Object.assign(skelstream, { Card, make });
})();
