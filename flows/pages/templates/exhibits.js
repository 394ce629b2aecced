// The exhibits of runs (flows.pages.report.gather): one run at a time, each part built when it comes into view.
"use strict";
(() => {
  const root = document.getElementById("exhibits"), FRAMES_PER_SECOND = 30;
  const HIDDEN = 1, MIXED = 4; // as of flows.pages.player; what is predicted has the colour of what is mixed
  const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th"];
  const SUBJECTS = ["trained", "random encoder", "coordinates"]; // in the order to choose from
  const HUES = [255, 45, 150, 20, 310, 195, 90, 345, 280, 120];
  const PARTS = { embedding: mapPart, neighbours: neighboursPart, prediction: predictionPart };
  let read = null, chosen = 0, made = new Map();

  const data = () => (read = read || JSON.parse(document.getElementById("exhibits-data").textContent));
  const per = (share) => Math.round(100 * share) + " %";
  const many = (count) => count.toLocaleString("en");

  function make(name, facts = {}, ...inside) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(facts)) key in element ? (element[key] = value) : element.setAttribute(key, value);
    element.append(...inside.filter((one) => one !== null));
    return element;
  }

  function draw(name, facts = {}, ...inside) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  }

  // one of several words, by radio buttons; null where there is nothing to choose
  let groups = 0;
  function choice(title, options, picked, act) {
    if (Object.keys(options).length < 2) return null;
    const name = "ex-choice-" + groups++;
    const radios = Object.entries(options).map(([value, text]) =>
      make("label", {}, make("input", { type: "radio", name, value, checked: value === String(picked), onchange: () => act(value) }), make("span", {}, text)));
    return make("fieldset", { className: "ex-choice" }, make("legend", {}, title), make("span", {}, ...radios));
  }

  // what a run's parts know of its samples
  function samplesOf(run) {
    const pool = data().pools[run.pool], names = data().classes[run.dataset];
    const sample = (id) => pool.samples[id];
    return { skeleton: pool.skeleton, sample, name: (label) => names[label], className: (id) => names[sample(id).label] };
  }

  const subjects = (names) => Object.fromEntries(names.map((name) => [name, data().subjects[name]]));

  // frames of a sample, evenly; the same numbers as flows.pages.report.pool.moments
  function moments({ count, length }) {
    return Array.from({ length: count }, (_, frame) => (count === 1 ? 0 : Math.floor((2 * frame * (length - 1) + count - 1) / (2 * (count - 1)))));
  }

  function sequence(sample, facts) {
    const at = sample.count < sample.length ? { at: moments(sample) } : {};
    return { count: sample.count, persons: sample.bodies, data: sample.data, length: sample.length, ...at, ...facts };
  }

  // a player that shows what `sequences` gives, at the pace of the longest sample
  function stage(element, skeleton, settings = {}) {
    const options = { legend: false, ...settings };
    let player = null;
    return (sequences) => {
      if (!element.isConnected) return; // another run was chosen meanwhile
      options.seconds = Math.max(1.5, ...sequences.map((one) => one.length / FRAMES_PER_SECOND));
      if (player) player.show(sequences);
      else {
        player = skelstream.player(element, skeleton, sequences, options);
        made.set(element, player);
      }
    };
  }

  // ---- embedding map

  function colours(values) {
    const groups = [...new Set(values)].sort((a, b) => a - b), few = groups.length <= HUES.length;
    return new Map(groups.map((group, place) => [group, few ? `--hue: ${HUES[place]}` : `--hue: ${(place * 137.5) % 360}; --tier: ${[0, -0.1, 0.1][place % 3]}`]));
  }

  function mapPart(run, part) {
    const { ids, of } = run.maps, { skeleton, sample, name, className } = samplesOf(run);
    const shown = { subject: "trained", projection: "tsne", colour: "label" };
    const facts = { label: "class", subject: "subject", camera: "camera" };
    const telling = Object.fromEntries(Object.entries(facts).filter(([key]) => key === "label" || (new Set(ids.map((id) => sample(id)[key])).size > 1 && ids.every((id) => sample(id)[key] >= 0))));
    const dots = ids.map((id, place) => draw("circle", { class: "ex-dot", id: "ex-dot-" + place, role: "option", "aria-selected": "false", "aria-label": `${className(id)}, ${sample(id).key}` }));
    const ring = draw("circle", { class: "ex-ring", "aria-hidden": "true" }), group = draw("g", { class: "ex-dots", role: "presentation" }, ...dots);
    const svg = draw("svg", { viewBox: "-40 -40 1080 1080", tabindex: 0, role: "listbox", "aria-label": `map of ${ids.length} test samples; arrow keys go from point to point, Enter holds one` }, group, ring);
    const keys = make("div", { className: "ex-keys", role: "group", "aria-label": "groups" }), said = make("p", { className: "ex-soft" }), missing = make("p", { className: "ex-missing" });
    const side = make("div", { className: "ex-side" }), box = make("div", { className: "ex-map" }, svg, side, keys), theatre = make("div");
    side.append(theatre);
    let points = [], current = 0, pinned = false, lit = null, waiting = 0;
    const show = stage(theatre, skeleton);

    const coordinates = () => of[shown.subject][shown.projection];
    const value = (place) => sample(ids[place])[shown.colour];
    const called = (group) => (shown.colour === "label" ? name(group) : `${facts[shown.colour]} ${group}`);

    function light(group) {
      box.querySelector(".ex-dots").classList.toggle("some", group !== null);
      dots.forEach((dot, place) => dot.classList.toggle("same", value(place) === group));
      for (const key of keys.children) key.setAttribute("aria-pressed", String(key.group === group && lit === group));
    }

    function select(place) {
      dots[current].setAttribute("aria-selected", "false");
      current = place;
      dots[place].setAttribute("aria-selected", "true");
      svg.setAttribute("aria-activedescendant", dots[place].id);
      if (points.length) ring.style.transform = dots[place].style.transform;
      if (!waiting) waiting = setTimeout(() => { waiting = 0; perform(); }, 60); // a quick pointer passes many points
    }

    function perform() {
      const one = sample(ids[current]), near = of[shown.subject].near, lines = [];
      const also = [["subject", one.subject], ["camera", one.camera]].filter(([, number]) => number >= 0).map((pair) => pair.join(" "));
      lines.push([...also, `${one.length} frames`].join(", "));
      if (near) lines.push(`nearest training sample: ${name(near[current])}`);
      show([sequence(one, { title: name(one.label), caption: one.key, lines, tone: near ? (near[current] === one.label ? "right" : "wrong") : undefined })]);
    }

    function paint() {
      const inks = colours(ids.map((_, place) => value(place))), near = of[shown.subject].near;
      dots.forEach((dot, place) => {
        for (const rule of ["--hue", "--tier"]) dot.style.removeProperty(rule);
        for (const rule of inks.get(value(place)).split("; ")) dot.style.setProperty(...rule.split(": "));
        dot.classList.toggle("wrong", near !== null && near[place] !== sample(ids[place]).label);
      });
      keys.replaceChildren(...[...inks].map(([group, style]) => {
        const press = () => { lit = lit === group ? null : group; light(lit); };
        return Object.assign(make("button", { type: "button", className: "ex-key", style, "aria-pressed": "false", onclick: press, onmouseenter: () => light(group), onmouseleave: () => light(lit) }, called(group)), { group });
      }));
      lit = null;
      light(null);
    }

    function arrange() {
      box.classList.remove("quick");
      const flat = coordinates(), { why, share, near } = of[shown.subject];
      missing.hidden = flat !== null;
      missing.textContent = why ? `${why[0].toUpperCase()}${why.slice(1)}.` : "";
      box.hidden = flat === null;
      points = flat === null ? [] : ids.map((_, place) => [flat[2 * place], flat[2 * place + 1]]);
      points.forEach(([x, y], place) => { dots[place].style.transform = `translate(${x}px, ${y}px)`; });
      const wrong = near === null ? null : near.filter((label, place) => label !== sample(ids[place]).label).length;
      said.replaceChildren(
        shown.projection === "pca" ? `Two principal components: ${share === null ? "none" : per(share)} of the variance. ` : "t-SNE: neighbours stay neighbours, distances between groups mean little. ",
        near === null ? "" : `Hollow: the nearest training sample is of another class (${wrong} of ${ids.length}).`);
      select(current);
    }

    function towards(right, down) {
      const [x, y] = points[current];
      let best = current, least = Infinity;
      points.forEach(([a, b], place) => {
        const along = (a - x) * right + (b - y) * down, across = Math.abs((a - x) * down) + Math.abs((b - y) * right);
        if (along > 0 && along + 2 * across < least) [best, least] = [place, along + 2 * across];
      });
      return best;
    }

    function under(event) {
      const { left, top, width, height } = svg.getBoundingClientRect(), scale = 1080 / Math.min(width, height);
      const x = (event.clientX - left - width / 2) * scale + 500, y = (event.clientY - top - height / 2) * scale + 500;
      const far = points.map(([a, b]) => Math.hypot(a - x, b - y)), least = Math.min(...far);
      return least < 24 * scale ? far.indexOf(least) : null;
    }

    function follow(event) {
      const place = pinned ? null : under(event);
      box.classList.add("quick");
      if (place !== null && place !== current) select(place);
      if (!pinned) light(place === null ? lit : value(place));
    }

    function pin(on) {
      pinned = on;
      box.classList.toggle("pinned", on);
    }

    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerleave", () => light(pinned ? value(current) : lit));
    svg.addEventListener("click", (event) => {
      const place = under(event), again = pinned && place === current;
      if (place !== null) select(place);
      pin(place !== null && !again);
      light(pinned ? value(place) : lit);
    });
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const acts = { Home: () => select(0), End: () => select(ids.length - 1), Enter: () => pin(!pinned), " ": () => pin(!pinned), Escape: () => pin(false) };
      for (const [key, step] of Object.entries(steps)) acts[key] = () => select(towards(...step));
      if (!(event.key in acts) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      box.classList.add("quick");
      acts[event.key]();
      light(value(current));
    });
    svg.addEventListener("blur", () => light(pinned ? value(current) : lit));

    const projections = { tsne: "t-SNE", pca: "PCA" };
    part.append(
      make("p", { className: "ex-soft" }, `${many(ids.length)} test samples where their features lie. Point at one, or use the arrow keys, to see it move; a click holds it.`),
      make("div", { className: "ex-choices" },
        choice("features", subjects(SUBJECTS), shown.subject, (to) => { shown.subject = to; paint(); arrange(); }),
        choice("map", projections, shown.projection, (to) => { shown.projection = to; arrange(); }),
        choice("colour", telling, shown.colour, (to) => { shown.colour = to; paint(); })),
      missing, box, said);
    paint();
    arrange();
  }

  // ---- nearest neighbours

  function neighboursPart(run, part) {
    const { queries, searched, total, right } = run.neighbours, { skeleton, sample, name, className } = samplesOf(run);
    const shown = { query: 0, subject: "trained" }, said = make("p", { className: "ex-soft" }), theatre = make("div");
    const show = stage(theatre, skeleton), among = searched < total ? `${many(searched)} of the ${many(total)} training samples (no features are kept of the others)` : `all ${many(total)} training samples`;
    const hits = (query, subject) => query.near[subject].filter(([id]) => sample(id).label === sample(query.id).label).length;

    function perform() {
      const query = queries[shown.query], one = sample(query.id), near = query.near[shown.subject];
      const others = near.map(([id, similarity], place) => {
        const lines = [sample(id).key, `similarity ${similarity.toFixed(3)}`];
        return sequence(sample(id), { title: ORDINALS[place], caption: className(id), lines, tone: sample(id).label === one.label ? "right" : "wrong" });
      });
      show([sequence(one, { title: "query", caption: name(one.label), lines: [one.key, `test sample, drawn ${query.drawn}`] }), ...others]);
      said.textContent = `${hits(query, shown.subject)} of the ${near.length} nearest have the class of the query. In the map above the nearest one has it for ${per(right[shown.subject])} of the samples.`;
    }

    const titles = Object.fromEntries(queries.map((query, place) => [place, className(query.id) + (query.drawn === "at random" ? "" : " (a mistake)")]));
    part.append(
      make("p", { className: "ex-soft" }, `Test samples and the ${queries[0].near.trained.length} nearest of ${among}, by cosine.${queries.some((query) => query.drawn !== "at random") ? " Mistakes have queries of their own, so that they are seen too." : ""}`),
      make("div", { className: "ex-choices" },
        choice("query", titles, 0, (to) => { shown.query = Number(to); perform(); }),
        choice("features", subjects(SUBJECTS.filter((subject) => subject in right)), "trained", (to) => { shown.subject = to; perform(); })),
      make("div", { className: "ex-row" }, theatre), said);
    perform();
  }

  // ---- masked and predicted

  function predictionPart(run, part) {
    const { samples } = run.prediction, { skeleton, sample, className } = samplesOf(run);
    const theatre = make("div"), show = stage(theatre, skeleton);
    const marked = (hidden, state) => btoa([...atob(hidden)].map((one) => String.fromCharCode(one.charCodeAt(0) * state)).join(""));
    const entry = (text, ink) => make("li", {}, make("i", { style: `background: var(--sk-${ink})` }), text);

    function perform(one) {
      const common = { count: one.count, persons: one.bodies, stream: one.stream, at: one.at, of: one.of, length: one.of, ...(one.still ? { still: one.still } : {}) };
      const told = one.error === null ? [] : [`${one.error} cm off in the mean of the hidden joints; a straight line in time between the frames that show a joint is ${one.line} cm off`];
      show([
        { ...common, title: "what the encoder sees", data: one.truth, ghost: one.truth, state: marked(one.hidden, HIDDEN), lines: [`${per(one.share)} of the joints are hidden, others in each piece of time; here they are drawn where they were`] },
        { ...common, title: "predicted", caption: className(one.id), data: one.predicted, state: marked(one.hidden, MIXED), lines: told },
        { ...common, title: "truth", caption: sample(one.id).key, data: one.truth, lines: ["a view of the test sample: a crop, sheared"] },
      ]);
    }

    part.append(
      make("p", { className: "ex-soft" }, "What the objective's decoder makes of joints that the encoder did not see, in test samples."),
      make("div", { className: "ex-choices" },
        choice("sample", Object.fromEntries(samples.map((one, place) => [place, className(one.id)])), 0, (to) => perform(samples[to]))),
      make("div", { className: "skelstream" }, make("ul", { className: "sk-legend" }, entry("seen", "first"), entry("hidden from the encoder", "hidden"), entry("predicted", "mixed"))),
      make("div", { className: "ex-triple" }, theatre));
    perform(samples[0]);
  }

  // ---- the page

  function why(run, name) {
    if (run.missing) return run.missing;
    return (name === "prediction" && run.prediction.missing) || null;
  }

  function build(section) {
    const part = section.querySelector(".ex-part");
    if (part.childElementCount) return;
    const run = data().runs[chosen], reason = why(run, section.id);
    if (reason) part.append(make("p", { className: "ex-missing" }, reason));
    else PARTS[section.id](run, part);
  }

  function title(run) {
    const seeds = run.seeds.length > 1 ? `, first of the seeds ${run.seeds.join(", ")}` : "";
    return `${run.method} on ${run.dataset} ${run.protocol}, ${run.stream}${seeds} (${run.folder})`;
  }

  const sections = [...root.querySelectorAll("section")];
  const watch = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => build(one.target)), { rootMargin: "300px" });

  function choose(number) {
    chosen = number;
    for (const player of made.values()) player.dispose();
    made = new Map();
    for (const section of sections) {
      const part = section.querySelector(".ex-part");
      part.style.minHeight = part.offsetHeight + "px"; // so that the page does not jump
      part.replaceChildren();
      watch.unobserve(section);
      watch.observe(section);
    }
    requestAnimationFrame(() => sections.forEach((section) => { section.querySelector(".ex-part").style.minHeight = ""; }));
  }

  function start() {
    const { runs } = data(), bar = root.querySelector(".ex-runs");
    if (!runs.length) return;
    const options = runs.map((run, value) => make("option", { value }, title(run)));
    if (runs.length > 1) bar.append(make("label", {}, "Run ", make("select", { onchange: (event) => choose(Number(event.target.value)) }, ...options)));
    else bar.append(make("span", { className: "ex-soft" }, title(runs[0])));
    choose(0);
  }
  addEventListener("beforeprint", () => sections.forEach(build));
  start();
})();
