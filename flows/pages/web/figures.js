// A sequence as bodies: points in metres, to the reader's right, upwards, and towards the reader, true to left and right.
"use strict";
globalThis.skelstream = globalThis.skelstream || {};
(() => {
  const STATES = { hidden: 1, gone: 2, mixed: 4 }; // as of flows.pages.player
  const EXAGGERATED = 5; // motion is centimetres a frame
  const MOST_POINTS = 3000; // of a figure, to find its middle from

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const millimetres = (text) => text && new Int16Array(bytes(text).buffer);
  const nowhere = (point) => point[0] === 0 && point[1] === 0 && point[2] === 0;

  class Figure {
    constructor(skeleton, sequence) {
      this.skeleton = skeleton;
      this.stream = sequence.stream || "joint";
      this.count = sequence.count;
      this.persons = sequence.persons || skeleton.persons;
      this.values = millimetres(sequence.data);
      this.state = sequence.state ? bytes(sequence.state) : null;
      this.ghost = millimetres(sequence.ghost);
      this.still = millimetres(sequence.still);
      this.about = surround(this);
    }

    point(values, start) {
      // seen from the camera (y up), or from where the person faces (z up, turned by the recipe): face to face both
      const towards = this.skeleton.up === 1 ? -values[start + 2] : values[start + 1];
      return [-values[start] / 1000, values[start + this.skeleton.up] / 1000, towards / 1000];
    }

    /** The bodies at a moment, in frames: {person, points, states, tips}; between two frames on the way to the next. */
    bodies(moment) {
      const frame = Math.min(this.count - 1, Math.floor(moment)), part = moment - frame, found = [];
      for (let person = 0; person < this.persons; person++) {
        const body = this.body(frame, person);
        const next = body && part > 0 && frame + 1 < this.count ? this.body(frame + 1, person) : null;
        if (body) found.push(next ? between(body, next, part) : body);
      }
      return found;
    }

    /** Whether a person is there at all. */
    present(person) {
      for (let frame = 0; frame < this.count; frame++) if (this.body(frame, person)) return true;
      return false;
    }

    body(frame, person) {
      const joints = this.skeleton.parents.length, first = (frame * this.persons + person) * joints;
      const states = [], vectors = [];
      for (let joint = 0; joint < joints; joint++) {
        const state = this.state ? this.state[first + joint] : 0;
        states.push(state);
        vectors.push(this.point(state & STATES.hidden ? this.ghost : this.values, (first + joint) * 3));
      }
      if (this.stream === "motion") return this.moving(vectors, states, first, person);
      if (vectors.every(nowhere)) return null;
      return { person, states, tips: null, points: this.stream === "bone" ? this.joined(vectors, person) : vectors };
    }

    moving(vectors, states, first, person) {
      const points = vectors.map((_, joint) => this.point(this.still, (first + joint) * 3));
      const tips = points.map((point, joint) => point.map((value, axis) => value + EXAGGERATED * vectors[joint][axis]));
      return points.every(nowhere) ? null : { person, states, points, tips };
    }

    // bones end to end from the joint that is its own parent; persons side by side
    joined(bones, person) {
      const points = [];
      const at = (joint) => {
        const parent = this.skeleton.parents[joint];
        if (!points[joint])
          points[joint] = parent === joint ? [-person, 0, 0] : at(parent).map((value, axis) => value + bones[joint][axis]);
        return points[joint];
      };
      bones.forEach((_, joint) => at(joint));
      return points;
    }
  }

  const blend = (a, b, part) => a.map((value, axis) => value + part * (b[axis] - value));

  // a joint whose state changes stays where it is until it has changed
  function between(body, next, part) {
    const same = (joint) => body.states[joint] === next.states[joint];
    const move = (from, to) => from.map((point, joint) => (same(joint) ? blend(point, to[joint], part) : point));
    return { ...body, points: move(body.points, next.points), tips: body.tips && next.tips && move(body.tips, next.tips) };
  }

  const quantile = (list, share) => list.sort((a, b) => a - b)[Math.floor(share * (list.length - 1))];

  // middle, a radius that leaves out the wildest points, and the height of the floor
  function surround(figure) {
    const size = figure.persons * figure.skeleton.parents.length, all = [];
    const step = Math.max(1, Math.ceil((figure.count * size) / MOST_POINTS));
    for (let frame = 0; frame < figure.count; frame += step)
      for (const { points, states } of figure.bodies(frame)) all.push(...points.filter((_, joint) => !(states[joint] & STATES.gone)));
    if (!all.length) return { middle: [0, 0, 0], radius: 1, floor: -1, persons: 0 };
    const middle = [0, 1, 2].map((axis) => {
      const list = all.map((point) => point[axis]);
      return (quantile(list, 0.02) + quantile(list, 0.98)) / 2;
    });
    const far = all.map((point) => Math.hypot(...point.map((value, axis) => value - middle[axis])));
    return { middle, radius: Math.max(0.5, quantile(far, 0.98)), floor: quantile(all.map((point) => point[1]), 0.02) };
  }

  Object.assign(skelstream, { Figure, STATES });
})();
