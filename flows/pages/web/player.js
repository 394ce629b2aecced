/* skelstream's player: skeletons in 3D, side by side, with one time and one camera. A plain script after three.min.js.
 *
 *   const player = skelstream.player(element, skeleton, sequences, options);
 *   player.show(sequences)     other sequences in place of these; camera, speed and play state stay, time starts anew
 *   player.play(on)            true or false
 *   player.seek(share)         to a place in time, 0 to 1; pauses
 *   player.dispose()           takes everything away again
 *
 * element    an empty block element. CSS of the page may set on it: --sk-width (least width of a card, 15rem) and
 *            --sk-height (height of a skeleton, 14rem).
 * skeleton   {parents, names, up, persons}: flows.pages.web.skeleton(up). up: the coordinate that points upwards, 1 or 2.
 * sequence   title     text
 *            caption   text beside the title, optional
 *            lines     list of texts below, optional
 *            note      an Element that is put below, optional: for more than plain text
 *            tone      "right" or "wrong", optional: marks the card, in words too
 *            count     frames
 *            persons   bodies in `data` where they are not skeleton.persons
 *            stream    "joint" (default), "bone" or "motion"
 *            data      flows.pages.player.encode of (count, persons, joints, 3); a body of zeros is absent
 *            state     base64 of uint8 (count, persons, joints): 1 hidden, 2 gone, 4 mixed (flows.pages.player), optional
 *            ghost     encoded: where hidden joints would be; needed where a state is hidden
 *            still     encoded: where the joints are; needed for "motion"
 *            at        list: frame of the stored sample that each frame is from, optional
 *            of        frames of the stored sample that `at` counts in: draws a bar of the part that is seen, optional
 *            mark      {person, joint, bone}, optional: a joint in the colour of what is wrong; bone: its bone too
 * options    playing   false: does not start by itself (default: it does, unless the reader prefers reduced motion)
 *            seconds   of one pass; default the longest sequence at 30 frames a second, at least 2
 *            controls  false: no row of controls (default true)
 *            legend    false: no legend (default true: only what the sequences have is named)
 *            words     {hidden, mixed}: what the legend calls joints of these states
 */
"use strict";
(() => {
  const { Card, STATES, make } = skelstream;
  const FRAMES_PER_SECOND = 30, SHORTEST = 2, ANGLE = 26, ZOOM = 1.25; // seconds, degrees
  const VIEWS = { front: [0, 0], side: [90, 0], top: [0, 89.9], reset: [24, 14] }; // degrees around and above
  const WORDS = { hidden: "masked or zero for the encoder, drawn where it would be", mixed: "changed by a mix" };
  const SPEEDS = [[0.1, "0.1×"], [0.25, "¼×"], [0.5, "½×"], [1, "1×"], [2, "2×"], [4, "4×"]];
  const ICONS = { play: "M2 0v10l8-5z", pause: "M1 0h3v10H1zM6 0h3v10H6z" };
  const players = new Set(), calm = matchMedia("(prefers-reduced-motion: reduce)");
  let waiting = 0, last = 0;

  // one clock for all players, that rests while none of them has anything to draw
  function wake() {
    if (!waiting) waiting = requestAnimationFrame(tick);
  }
  function tick(now) {
    waiting = 0;
    const passed = Math.min(0.1, Math.max(0, (now - last) / 1000));
    last = now;
    for (const player of players) player.tick(passed);
    if ([...players].some((player) => player.running)) wake();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => players.forEach((player) => player.repaint()));

  class Player {
    constructor(element, skeleton, options) {
      Object.assign(this, { element, skeleton, options, time: 0, speed: 1, names: false, dirty: true, cards: [], fit: 0, radius: 1 });
      this.playing = options.playing !== false && !calm.matches;
      this.stage = skelstream.stage();
      this.camera = new THREE.PerspectiveCamera(ANGLE, 1, 0.05, 200);
      element.classList.add("skelstream");
      this.grid = make("div", { className: "sk-cards" });
      this.legend = make("ul", { className: "sk-legend" });
      this.bar = options.controls === false ? null : this.controls();
      element.replaceChildren(...[this.legend, this.grid, this.bar].filter(Boolean));
      this.watch = new IntersectionObserver((seen) => this.saw(seen), { rootMargin: "60px" });
      this.sizes = new ResizeObserver(() => this.repaint(false));
      if (!this.stage) this.missing();
      this.turn(...VIEWS.reset);
      this.colours = null;
      players.add(this);
    }

    missing() {
      this.element.classList.add("sk-flat");
      const text = "Skeletons are drawn with WebGL, which this browser does not offer: it is switched off, or there is no "
        + "graphics driver. The rest of the page needs none.";
      this.element.prepend(make("p", { className: "sk-missing", role: "note" }, text));
    }

    show(sequences) {
      this.rest();
      this.cards = sequences.map((sequence) => new Card(sequence, this.skeleton, this));
      this.grid.replaceChildren(...this.cards.map((card) => card.element));
      // one scale for all, so that sizes compare; a wild one may leave its card
      const all = this.cards.map((card) => card.figure.about.radius);
      this.radius = all.length ? Math.min(1.2 * all[0], Math.max(...all)) : 1;
      this.longest = Math.max(1, ...sequences.map((sequence) => sequence.count));
      this.seconds = this.options.seconds || Math.max(SHORTEST, this.longest / FRAMES_PER_SECOND);
      this.reach((1.05 * this.radius) / Math.sin((ANGLE * Math.PI) / 360));
      this.explain();
      if (this.stage) this.cards.forEach((card) => this.listen(card));
      this.go(0);
    }

    // what there was to watch of the cards before
    rest() {
      this.watch.disconnect();
      this.sizes.disconnect();
      this.cards.forEach((card) => card.orbit && card.orbit.dispose());
    }

    // as far away as all is seen; the zoom stays
    reach(fit) {
      const zoom = this.fit ? this.fit / this.camera.position.length() : 1;
      this.fit = fit;
      this.camera.position.setLength(fit / zoom);
    }

    explain() {
      const figures = this.cards.map((card) => card.figure), any = (test) => figures.some(test);
      const state = (bit) => any((figure) => figure.state && figure.state.some((one) => one & bit));
      const entry = (text, ...inks) => make("li", {}, ...inks.map((ink) => make("i", { style: `background: var(--sk-${ink})` })), text);
      const { hidden, mixed } = { ...WORDS, ...this.options.words };
      const two = any((figure) => figure.persons > 1 && figure.present(1));
      const found = [entry(two ? "person 0, left side lighter" : "left side lighter", "first", "first-left")];
      if (two) found.push(entry("person 1", "second", "second-left"));
      if (state(STATES.hidden)) found.push(entry(hidden, "hidden"));
      if (state(STATES.mixed)) found.push(entry(mixed, "mixed"));
      if (this.cards.some((card) => card.sequence.mark)) found.push(entry("marked", "wrong"));
      if (any((figure) => figure.stream === "bone")) found.push(entry("Bones, drawn joined end to end, persons side by side."));
      if (any((figure) => figure.stream === "motion")) found.push(entry("Motion, drawn as spikes from each joint, five times as long."));
      this.legend.replaceChildren(...found);
      this.legend.hidden = this.options.legend === false;
    }

    controls() {
      const press = (text, act, facts = {}) => make("button", { type: "button", onclick: act, ...facts }, text);
      const group = (label, ...inside) => make("span", { className: "sk-group", role: "group", "aria-label": label }, ...inside);
      this.button = press("", () => this.play(!this.playing), { className: "sk-play" });
      this.slider = make("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "time" });
      this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
      this.slider.addEventListener("keydown", (event) => this.steer(event));
      this.number = make("output", { "aria-live": "off" });
      const speeds = SPEEDS.map(([value, text]) => make("option", { value, selected: value === 1 }, text));
      this.pace = make("select", { "aria-label": "speed", onchange: () => { this.speed = Number(this.pace.value); } }, ...speeds);
      this.namer = press("names", () => this.label(!this.names), { "aria-pressed": "false", title: "names of the joints" });
      const views = Object.keys(VIEWS).map((name) => press(name, () => this.turn(...VIEWS[name], name === "reset")));
      const zoom = [["+", "closer", 1 / ZOOM], ["−", "farther", ZOOM]]
        .map(([text, label, by]) => press(text, () => this.zoom(by), { "aria-label": label }));
      return make("div", { className: "sk-controls", role: "group", "aria-label": "player" },
        this.button, this.slider, this.number, this.pace, this.namer, group("view", ...views), group("zoom", ...zoom));
    }

    listen(card) {
      const { canvas } = card;
      this.watch.observe(card.element);
      this.sizes.observe(canvas);
      // the wheel scrolls the page unless the canvas has been chosen; fingers pinch
      const choose = (on) => () => { card.orbit.enableZoom = on || document.activeElement === canvas; };
      canvas.addEventListener("wheel", (event) => choose(event.ctrlKey)(), { capture: true, passive: true });
      canvas.addEventListener("pointerdown", choose(true), { capture: true });
      card.orbit = new THREE.OrbitControls(this.camera, canvas);
      Object.assign(card.orbit, { enablePan: false, minDistance: 0.15 * this.fit, maxDistance: 8 * this.fit });
      card.orbit.addEventListener("change", () => this.repaint(false));
      canvas.style.touchAction = "pan-y";
      const point = (at) => { card.hover = at; this.repaint(false); };
      canvas.addEventListener("pointermove", (event) => point(event.buttons ? null : [event.offsetX, event.offsetY]));
      canvas.addEventListener("pointerleave", () => point(null));
      canvas.addEventListener("keydown", (event) => this.key(event));
    }

    saw(seen) {
      const visible = new Map(seen.map((one) => [one.target, one.isIntersecting]));
      for (const card of this.cards) card.visible = visible.get(card.element) ?? card.visible;
      this.repaint(false);
    }

    key(event) {
      const turns = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, 6], ArrowDown: [0, -6] };
      const acts = {
        ...Object.fromEntries(Object.entries(turns).map(([name, by]) => [name, () => this.tilt(...by)])),
        "+": () => this.zoom(1 / ZOOM), "=": () => this.zoom(1 / ZOOM), "-": () => this.zoom(ZOOM),
        " ": () => this.play(!this.playing), Home: () => this.turn(...VIEWS.reset, true), n: () => this.label(!this.names),
      };
      if (!(event.key in acts) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      acts[event.key]();
    }

    // arrow keys on the time: frame by frame
    steer(event) {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const frame = Math.min(this.longest - 1, Math.floor(this.time * this.longest)) + by;
      this.seek((Math.max(0, Math.min(this.longest - 1, frame)) + 0.5) / this.longest);
    }

    turn(around, above, close = false) {
      const [yaw, pitch] = [around, above].map((degrees) => (degrees * Math.PI) / 180);
      const away = close || !this.fit ? this.fit || 1 : this.camera.position.length();
      this.camera.position.set(Math.sin(yaw) * Math.cos(pitch), Math.sin(pitch), Math.cos(yaw) * Math.cos(pitch)).multiplyScalar(away);
      this.camera.lookAt(0, 0, 0);
      this.repaint(false);
    }

    tilt(right, up) {
      const { x, y, z } = this.camera.position, degrees = (radians) => (radians * 180) / Math.PI;
      this.turn(degrees(Math.atan2(x, z)) + right, Math.max(-89.9, Math.min(89.9, degrees(Math.atan2(y, Math.hypot(x, z))) + up)));
    }

    zoom(by) {
      this.camera.position.setLength(Math.max(0.15 * this.fit, Math.min(8 * this.fit, this.camera.position.length() * by)));
      this.repaint(false);
    }

    label(on) {
      this.names = on;
      if (this.namer) this.namer.setAttribute("aria-pressed", String(on));
      this.repaint(false);
    }

    play(on) {
      this.playing = on && this.stage !== null;
      const name = this.playing ? "pause" : "play", icon = `<svg viewBox="0 0 10 10" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
      if (this.bar) this.button.innerHTML = icon + name;
      this.repaint(false);
    }

    seek(share) {
      this.play(false);
      this.go(Math.max(0, Math.min(1, share)));
    }

    go(time) {
      this.time = time;
      if (this.bar) {
        this.slider.value = time;
        const text = `frame ${Math.min(this.longest - 1, Math.floor(time * this.longest))} of ${this.longest}`;
        this.number.textContent = text;
        if (!this.playing) this.slider.setAttribute("aria-valuetext", text);
      }
      this.repaint(false);
    }

    repaint(anew = true) {
      if (anew) this.colours = null;
      this.dirty = true;
      wake();
    }

    get running() {
      return this.playing && this.cards.some((card) => card.visible);
    }

    tick(passed) {
      if (this.running) this.go((this.time + (passed * this.speed) / this.seconds) % 1);
      if (!this.dirty || !this.stage) return;
      this.dirty = false;
      this.colours = this.colours || skelstream.palette(this.element);
      for (const card of this.cards) if (card.visible) card.draw(this.stage, this.time, !this.playing, this.colours, this.names);
    }

    dispose() {
      this.rest();
      players.delete(this);
      this.element.replaceChildren();
      this.element.classList.remove("skelstream", "sk-flat");
    }
  }

  skelstream.player = (element, skeleton, sequences, options = {}) => {
    const player = new Player(element, skeleton, options);
    player.show(sequences);
    player.play(player.playing);
    const { show, play, seek, dispose } = Player.prototype, bound = { show, play, seek, dispose };
    return Object.fromEntries(Object.entries(bound).map(([name, act]) => [name, act.bind(player)]));
  };
})();
