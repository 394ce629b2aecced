// Bodies in 3D: one WebGL context a page, whose picture is copied onto the canvas that asks for it.
"use strict";
(() => {
  const { STATES } = skelstream;
  const MOST_JOINTS = 256; // of all bodies in a picture
  const BONE = 0.017, JOINT = 0.024, HEAD = 0.062, GHOST = 0.5, CELL = 0.5; // metres, of a body a metre around its middle
  const UP = new THREE.Vector3(0, 1, 0);

  /** The page's stage; null where the browser has no WebGL. */
  let stage;
  skelstream.stage = () => {
    if (stage === undefined) {
      const canvas = document.createElement("canvas");
      const context = canvas.getContext("webgl2", { antialias: true, alpha: true, stencil: true, depth: true });
      stage = context ? new Stage(canvas, context) : null;
    }
    return stage;
  };

  class Stage {
    constructor(canvas, context) {
      this.renderer = new THREE.WebGLRenderer({ canvas, context, antialias: true, alpha: true, stencil: true });
      this.renderer.setScissorTest(true);
      this.width = this.height = 0;
      this.scene = new THREE.Scene();
      this.sun = new THREE.DirectionalLight(0xffffff, 1.7);
      this.scene.add(new THREE.HemisphereLight(0xffffff, 0xb9bcc4, 1.9), this.sun, this.sun.target);
      this.floors = new Map();
      // few triangles: without a graphics card they are what a picture costs, 2 to 3 µs each
      const bone = new THREE.CylinderGeometry(1, 1, 1, 6, 1, true), joint = new THREE.SphereGeometry(1, 7, 4);
      const solid = () => new THREE.MeshLambertMaterial();
      const faint = () => new THREE.MeshBasicMaterial({ transparent: true, opacity: 0.55, depthWrite: false });
      this.meshes = {
        bone: this.mesh(bone, solid()),
        joint: this.mesh(joint, solid()),
        head: this.mesh(new THREE.SphereGeometry(1, 14, 9), solid()),
        spike: this.mesh(new THREE.ConeGeometry(1, 1, 6), solid()),
        ghostBone: this.mesh(bone, faint()),
        ghostJoint: this.mesh(joint, faint()),
      };
      // of bones alone: flattened joints cost a software renderer more than all else together
      this.shade = this.shadow(this.meshes.bone);
    }

    mesh(geometry, material) {
      const mesh = new THREE.InstancedMesh(geometry, material, MOST_JOINTS);
      mesh.frustumCulled = false;
      mesh.setColorAt(0, new THREE.Color());
      this.scene.add(mesh);
      return mesh;
    }

    // the same shapes pressed flat onto the floor; the stencil lets each pixel darken once
    shadow(of) {
      const material = new THREE.MeshBasicMaterial({
        color: 0, transparent: true, depthWrite: false, side: THREE.DoubleSide,
        stencilWrite: true, stencilFunc: THREE.EqualStencilFunc, stencilRef: 0, stencilZPass: THREE.IncrementStencilOp,
      });
      const mesh = new THREE.InstancedMesh(of.geometry, material, MOST_JOINTS);
      mesh.instanceMatrix = of.instanceMatrix;
      mesh.frustumCulled = mesh.matrixAutoUpdate = false;
      this.scene.add(mesh);
      return mesh;
    }

    /** Draw bodies on a 2D canvas.
     *
     * canvas   its size is set to the one it has on the page
     * camera   looks at the origin, into which `about.middle` is moved
     * about    {middle, radius, floor} in metres
     * colours  of `palette`
     * mark     {person, joint, bone} or undefined
     * Returns where the joints are on the canvas: [{person, joint, x, y}] in pixels of the page.
     */
    draw(canvas, camera, about, bodies, skeleton, colours, mark) {
      const ratio = Math.min(2, devicePixelRatio), width = canvas.clientWidth, height = canvas.clientHeight;
      if (!width || !height) return [];
      const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
      this.fit(across, down);
      camera.aspect = width / height;
      camera.updateProjectionMatrix();
      this.sun.position.copy(camera.position).normalize().add(new THREE.Vector3(-0.3, 0.9, 0.2));
      for (const name in this.meshes) this.meshes[name].count = 0;
      const thick = Math.max(0.7, Math.min(2.2, about.radius));
      for (const body of bodies) this.place(body, about.middle, skeleton, colours, mark, thick);
      this.lay(about, colours);
      for (const name in this.meshes) this.meshes[name].instanceMatrix.needsUpdate = this.meshes[name].instanceColor.needsUpdate = true;
      this.renderer.render(this.scene, camera);
      const pen = canvas.getContext("2d");
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, across, down);
      pen.drawImage(this.renderer.domElement, 0, this.height - down, across, down, 0, 0, across, down);
      pen.scale(ratio, ratio);
      return spots(bodies, about.middle, camera, width, height);
    }

    // the drawing buffer only grows, so that cards of several sizes do not make it anew
    fit(across, down) {
      if (across > this.width || down > this.height) {
        [this.width, this.height] = [Math.max(across, this.width), Math.max(down, this.height)];
        this.renderer.setSize(this.width, this.height, false);
      }
      this.renderer.setViewport(0, 0, across, down);
      this.renderer.setScissor(0, 0, across, down);
    }

    lay(about, colours) {
      const reach = Math.ceil(about.radius / CELL) + 1, floor = about.floor - about.middle[1] - 0.02;
      const shift = [0, 2].map((axis) => about.middle[axis]);
      if (!this.floors.has(reach)) this.floors.set(reach, this.scene.add(grid(reach)).children.at(-1));
      for (const [size, lines] of this.floors) lines.visible = size === reach;
      const lines = this.floors.get(reach);
      lines.material.color.copy(colours.grid);
      lines.position.set(-(shift[0] % CELL), floor, -(shift[1] % CELL));
      this.shade.count = this.meshes.bone.count;
      this.shade.material.opacity = colours.shade;
      // flat, and a little aside: the light comes from above on the left
      this.shade.matrix.set(1, 0.22, 0, -0.22 * floor, 0, 0, 0, floor + 0.003, 0, -0.12, 1, 0.12 * floor, 0, 0, 0, 1);
    }

    place(body, middle, skeleton, colours, mark, thick) {
      const vector = (point) => new THREE.Vector3(...point.map((value, axis) => value - middle[axis]));
      const points = body.points.map(vector), marked = mark && mark.person === body.person && mark.bone ? mark.joint : -1;
      // the skeleton under motion is faint
      const slim = body.tips ? GHOST : 1;
      points.forEach((point, joint) => {
        const parent = skeleton.parents[joint], state = body.states[joint], both = state | body.states[parent];
        const own = joint === marked ? colours.wrong : inkOf(body, joint, skeleton, colours), ink = body.tips ? colours.faint : own;
        if (state & STATES.gone) return;
        if (state & STATES.hidden) this.put("ghostJoint", point, null, 0.75 * thick * JOINT, colours.hidden);
        else if (skeleton.names[joint] === "head" && !body.tips) this.put("head", point, null, thick * HEAD, ink);
        else this.put("joint", point, null, slim * thick * JOINT, ink);
        if (body.tips && !(state & STATES.hidden)) this.put("spike", point, vector(body.tips[joint]), 1.3 * thick * BONE, own);
        if (parent === joint || both & STATES.gone) return;
        if (both & STATES.hidden) this.put("ghostBone", point, points[parent], GHOST * thick * BONE, colours.hidden);
        else this.put("bone", point, points[parent], slim * thick * BONE, ink);
      });
    }

    put(name, from, to, radius, colour) {
      const mesh = this.meshes[name];
      if (mesh.count >= MOST_JOINTS) return;
      const matrix = to ? rod(from, to, radius) : new THREE.Matrix4().makeScale(radius, radius, radius).setPosition(from);
      mesh.setMatrixAt(mesh.count, matrix);
      mesh.setColorAt(mesh.count, colour);
      mesh.count += 1;
    }
  }

  // from the middle of its foot to the tip
  function rod(from, to, radius) {
    const along = to.clone().sub(from), length = along.length() || 1e-6;
    const turn = new THREE.Quaternion().setFromUnitVectors(UP, along.divideScalar(length));
    const middle = from.clone().add(to).multiplyScalar(0.5);
    return new THREE.Matrix4().compose(middle, turn, new THREE.Vector3(radius, length, radius));
  }

  function inkOf(body, joint, skeleton, colours) {
    if (body.states[joint] & STATES.mixed) return colours.mixed;
    const own = colours.persons[body.person % colours.persons.length];
    return skeleton.names[joint].startsWith("left") ? own.left : own.right;
  }

  // lines that fade towards the edge
  function grid(reach) {
    const places = [], tints = [], alpha = (x, z) => Math.max(0, 1 - Math.hypot(x, z) / reach) ** 0.8;
    const line = (...ends) => ends.forEach(([x, z]) => { places.push(x * CELL, 0, z * CELL); tints.push(1, 1, 1, alpha(x, z)); });
    for (let at = -reach; at <= reach; at++)
      for (let from = -reach; from < reach; from++) {
        line([at, from], [at, from + 1]);
        line([from, at], [from + 1, at]);
      }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(places), 3));
    geometry.setAttribute("color", new THREE.BufferAttribute(new Float32Array(tints), 4));
    const material = new THREE.LineBasicMaterial({ vertexColors: true, transparent: true, depthWrite: false });
    const lines = new THREE.LineSegments(geometry, material);
    lines.renderOrder = -1;
    return lines;
  }

  function spots(bodies, middle, camera, width, height) {
    return bodies.flatMap(({ person, points, states }) => points.flatMap((point, joint) => {
      if (states[joint] & STATES.gone) return [];
      const seen = new THREE.Vector3(...point.map((value, axis) => value - middle[axis])).project(camera);
      return [{ person, joint, x: ((seen.x + 1) / 2) * width, y: ((1 - seen.y) / 2) * height }];
    }));
  }

  /** The colours that the style of an element names, for `Stage.draw`. */
  skelstream.palette = (element) => {
    const style = getComputedStyle(element), text = (name) => style.getPropertyValue("--sk-" + name).trim();
    const colour = (name) => new THREE.Color(text(name));
    const person = (name) => ({ right: colour(name), left: colour(name + "-left") });
    return {
      persons: [person("first"), person("second")],
      mixed: colour("mixed"), hidden: colour("hidden"), wrong: colour("wrong"), grid: colour("grid"), faint: colour("faint"),
      shade: Number(text("shade")), ink: text("ink"), halo: text("card"), ring: text("wrong"),
    };
  };
})();
