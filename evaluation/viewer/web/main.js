// Puts the page together: splats, layers, objects, camera. `window.chorus` is for scripts and tests.

class Viewer {
  constructor(data) {
    this.data = data;
    this.settings = { scale: 1, opacity: 1, boxes: false, background: [0.96, 0.96, 0.97] };
    this.canvas = document.getElementById("canvas");
    this.frames = 0;
    this.camera = new Camera(page.start, () => this.refresh());
    this.renderer = new Renderer(this.canvas, page.splats, data, document.getElementById("sorter").textContent);
    this.renderer.changed = () => this.refresh();
    this.path = new Path(this.camera);
    this.known = new Map(); // layer name -> {layer, planes, colours}
    this.objects = null;
    this.selected = -1;
    this.alone = -1;
    this.panel = new Panel(document.getElementById("panel"), page.name, page.note);
    this.camera.listen(this.canvas, (event) => this.click(event));
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.resize();
  }

  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.refresh();
  }

  refresh() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.renderer.draw(this.camera.look(this.canvas.width, this.canvas.height), this.settings);
      this.frames++;
    });
  }

  // Nothing more is to be drawn.
  get still() { return !this.waiting && !this.working && this.renderer.settled; }

  build() {
    for (const layer of page.layers) this.panel.layerButton(layer.name, () => this.show(layer.name));
    if (page.live && page.live.text) this.panel.ask((words) => this.ask({ query: words }));
    this.panel.slider("opacity", 0, 2, 1, (value) => this.set({ opacity: value }));
    this.panel.slider("size", 0.05, 2, 1, (value) => this.set({ scale: value }));
    this.panel.tool("Start view", () => { this.camera.place(page.start.eye, page.start.target); this.refresh(); });
    this.panel.tool("Save picture", () => this.savePicture());
    const keep = this.panel.tool("Keep view", () => { this.path.keep(); keep.textContent = `Keep view (${this.path.views.length})`; });
    this.panel.tool("Play", () => this.path.play());
    this.panel.tool("Save video", () => this.saveVideo());
    if (page.live && page.live.objects) this.panel.tool("Find objects", () => this.work("Finding objects", () => this.fetchObjects()));
  }

  set(settings) {
    Object.assign(this.settings, settings);
    this.refresh();
  }

  async work(text, task) {
    this.working = true;
    this.panel.say(text + " …");
    try {
      await task();
      this.panel.say("");
    } catch (error) {
      this.panel.say(String(error.message || error));
    }
    this.working = false;
  }

  show(name) {
    return this.work(name, async () => {
      if (!this.known.has(name)) {
        const layer = page.layers.find((one) => one.name == name);
        if (layer.block) this.keep(layer, await block(layer.block));
        else if (page.live && layer.remote) this.keep(...(await remote("layer", { layer: name })));
        else this.keep(layer, null);
      }
      this.wear(name);
    });
  }

  // A question to the server: {query} in words, or {row} for what is like a row. The answer is a layer of its own.
  ask(question) {
    return this.work("Asking", async () => {
      const [layer, planes] = await remote("layer", question);
      if (!page.layers.some((one) => one.name == layer.name)) {
        page.layers.push(layer);
        this.panel.layerButton(layer.name, () => this.show(layer.name));
      }
      this.keep(layer, planes);
      this.wear(layer.name);
      this.select(-1); // the answer may lie anywhere
    });
  }

  keep(layer, planes) {
    const ids = layer.palette && planes ? layerIds(layer, planes) : null;
    this.known.set(layer.name, { layer, ids, colours: layerColours(layer, planes, this.data.colours) });
  }

  wear(name) {
    this.layer = name;
    this.alone = -1;
    this.panel.mark(name);
    const { layer } = this.known.get(name);
    this.panel.showLegend(layer, (id) => { this.alone = this.alone == id ? -1 : id; this.paint(); });
    this.paint();
  }

  // Colours of the layer; what is not selected, or not the one class that is shown alone, becomes pale.
  paint() {
    const { colours, ids } = this.known.get(this.layer), n = page.splats.rows;
    this.rgba = this.rgba || new Uint8Array(4 * n);
    for (let i = 0; i < n; i++) {
      const pale = (this.selected >= 0 && this.members[i] != this.selected + 1) || (this.alone >= 0 && ids && ids[i] != this.alone);
      for (let k = 0; k < 3; k++) this.rgba[4 * i + k] = pale ? 190 + colours[3 * i + k] / 5 : colours[3 * i + k];
      this.rgba[4 * i + 3] = 255;
    }
    this.renderer.setColours(this.rgba);
    this.refresh();
  }

  readObjects(objects, planes) {
    this.objects = objects;
    const n = page.splats.rows;
    this.members = new Uint16Array(n);
    for (let i = 0; i < n; i++) this.members[i] = planes[i] | ((planes[n + i] || 0) << 8);
    this.panel.listObjects(objects, (id) => this.select(id == this.selected ? -1 : id, true), (on) => this.set({ boxes: on }));
    this.drawBoxes();
  }

  async fetchObjects() {
    const [{ objects }, planes] = await remote("objects", {});
    this.readObjects(objects, planes);
  }

  // Boxes of all objects, or of the selected one alone.
  drawBoxes() {
    const points = [], tints = [], corner = (box, signs) =>
      signs.reduce((at, sign, k) => plus(at, box.axes[k], (sign * box.size[k]) / 2), box.centre);
    if (!this.objects) return;
    const shown = this.selected < 0 ? this.objects : this.objects.filter((one) => one.id == this.selected);
    for (const { id, box, colour } of shown) {
      for (let axis = 0; axis < 3; axis++) for (const a of [-1, 1]) for (const b of [-1, 1]) for (const c of [-1, 1]) {
        const signs = [a, b];
        signs.splice(axis, 0, c);
        points.push(...corner(box, signs));
        tints.push(...(id == this.selected ? [1, 0, 0.6] : colour.map((x) => (0.8 * x) / 255)));
      }
    }
    this.renderer.setLines(points, tints);
  }

  select(id, approach = false) {
    this.selected = id;
    this.panel.markObject(id);
    this.drawBoxes();
    if (id >= 0) {
      const object = this.objects.find((one) => one.id == id), size = Math.hypot(...object.box.size);
      if (approach) this.approach(object.box.centre, size);
      this.panel.showPicked(`${object.class || "object"} ${id}: ${object.count} Gaussians, ` +
        object.box.size.map((x) => x.toFixed(2)).join(" × ") + " m", this.actions());
    } else this.panel.showPicked("", []);
    this.paint();
  }

  // Look at a thing of this size from where the camera is, from as near as it is seen whole but no nearer than now.
  approach(centre, size) {
    const eye = this.camera.eye, back = plus(eye, centre, -1), far = Math.hypot(...back);
    this.camera.place(plus(centre, back, Math.min(1, Math.max((1.4 * size) / far, 0.05))), centre);
  }

  actions() {
    const more = [];
    if (this.row >= 0 && page.live && page.live.features) more.push(["More like this", () => this.ask({ row: this.row })]);
    if (this.selected >= 0) more.push(["Unselect", () => this.select(-1)]);
    return more;
  }

  click(event) {
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    const look = this.camera.look(this.canvas.width, this.canvas.height);
    this.row = pick(this.data, look, this.canvas, (event.clientX - box.x) * ratio, (event.clientY - box.y) * ratio,
      this.rgba, this.settings, page.splats.eps2d);
    const object = this.row >= 0 && this.members ? this.members[this.row] - 1 : -1;
    if (object >= 0) return this.select(object);
    this.select(-1);
    if (this.row < 0) return;
    const { layer, ids } = this.known.get(this.layer), entry = ids && (layer.entries || []).find((one) => one.id == ids[this.row]);
    const place = [0, 1, 2].map((k) => this.data.means[3 * this.row + k].toFixed(2)).join(", ");
    this.panel.showPicked(`${entry ? entry.name + ", at" : "At"} ${place} m`, this.actions());
  }

  savePicture() {
    this.canvas.toBlob((blob) => save(blob, page.name + ".png"));
  }

  saveVideo(seconds) {
    return this.work("Recording", async () => save(await this.path.record(this.canvas, seconds), page.name + ".webm"));
  }
}

// [header, planes] of the server's answer.
async function remote(what, question) {
  const answer = await fetch(`${what}?${new URLSearchParams(question)}`);
  if (!answer.ok) throw new Error(await answer.text());
  const { header, planes } = await answer.json();
  return [header, planes ? await inflate(fromBase64(planes)) : null];
}

async function open() {
  const viewer = new Viewer(await readSplats(page.splats));
  viewer.build();
  window.chorus = viewer;
  await viewer.show(page.layers[0].name);
  if (page.objects) {
    const described = JSON.parse(new TextDecoder().decode(await block("described")));
    viewer.readObjects(described, await block("objects"));
  }
}

open().catch((error) => { document.getElementById("panel").textContent = "Cannot show this scene: " + (error.message || error); });
