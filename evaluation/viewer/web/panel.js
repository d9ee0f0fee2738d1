// The panel: buttons of the layers, legend, objects, sliders. Texts of the page become text nodes and never markup.

function make(parent, tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  if (parent) parent.append(node);
  return node;
}

const hex = (colour) => "#" + colour.map((c) => Math.round(c).toString(16).padStart(2, "0")).join("");
const percent = (share) => (share >= 0.0995 ? Math.round(100 * share) : (100 * share).toFixed(1)) + " %";

class Panel {
  constructor(root, title, note) {
    make(root, "h1", {}, title);
    make(root, "p", { className: "note" }, note);
    this.layers = make(root, "div", { id: "layers", className: "buttons" });
    this.asking = make(root, "form", { id: "asking" });
    this.status = make(root, "p", { id: "status" });
    this.legend = make(root, "div", { id: "legend" });
    this.picked = make(root, "div", { id: "picked" });
    this.objects = make(root, "div", { id: "objects" });
    this.sliders = make(root, "div", { id: "sliders" });
    this.tools = make(root, "div", { id: "tools", className: "buttons" });
    make(root, "p", { className: "note" },
      "Drag: orbit. Right drag: look around. Shift and drag: move. Wheel: nearer. W A S D Q E: walk. Click: select.");
  }

  layerButton(name, shown) {
    const button = make(this.layers, "button", { type: "button" }, name);
    button.dataset.layer = name;
    button.onclick = shown;
  }

  mark(name) {
    for (const button of this.layers.children) button.classList.toggle("on", button.dataset.layer == name);
  }

  ask(answered) {
    const words = make(this.asking, "input", { id: "query", placeholder: "Ask for anything, then Enter" });
    this.asking.onsubmit = (event) => {
      event.preventDefault();
      if (words.value.trim()) answered(words.value.trim());
    };
  }

  say(text) { this.status.textContent = text; }

  // entries: {name, colour, share}, or a range {low, high, palette}; a click on an entry shows it alone.
  showLegend(layer, chosen) {
    this.legend.replaceChildren();
    if (layer.note) make(this.legend, "p", { className: "note" }, layer.note);
    if (layer.range) {
      const stops = layer.palette.map(hex).join(",");
      const bar = make(this.legend, "div", { className: "bar" });
      bar.style.background = `linear-gradient(to right, ${stops})`;
      make(this.legend, "div", { className: "ends" }, make(null, "span", {}, layer.range[0].toFixed(2)),
        make(null, "span", {}, layer.range[1].toFixed(2)));
    }
    for (const entry of layer.entries || []) {
      const line = make(this.legend, "div", { className: "entry", tabIndex: 0 },
        make(null, "i", { style: `background:${hex(layer.palette[entry.id])}` }), `${entry.name} ${percent(entry.share)}`);
      line.onclick = () => chosen(entry.id);
    }
  }

  listObjects(objects, chosen, boxes) {
    this.objects.replaceChildren();
    const check = make(null, "input", { type: "checkbox", id: "boxes" });
    check.onchange = () => boxes(check.checked);
    make(this.objects, "h2", {}, `${objects.length} objects `, make(null, "label", {}, check, "boxes"));
    const list = make(this.objects, "div", { className: "list" });
    for (const object of objects) {
      const sure = object.confidence == null ? "" : ` ${object.confidence.toFixed(2)}`;
      const line = make(list, "div", { className: "entry", tabIndex: 0 },
        make(null, "i", { style: `background:${hex(object.colour)}` }), `${object.class || "object"} ${object.id}${sure}`,
        make(null, "small", {}, ` ${object.count}`));
      line.dataset.object = object.id;
      line.onclick = () => chosen(object.id);
    }
  }

  markObject(id) {
    for (const line of this.objects.querySelectorAll("[data-object]")) {
      const on = line.dataset.object == id;
      line.classList.toggle("on", on);
      if (on) line.scrollIntoView({ block: "nearest" });
    }
  }

  // What was clicked, and what can be done with it: [text, action] each.
  showPicked(text, actions) {
    this.picked.replaceChildren();
    if (!text) return;
    make(this.picked, "p", {}, text);
    const buttons = make(this.picked, "div", { className: "buttons" });
    for (const [name, action] of actions) make(buttons, "button", { type: "button", onclick: action }, name);
  }

  slider(name, low, high, value, changed) {
    const input = make(null, "input", { type: "range", min: low, max: high, step: 0.01, value, id: "slider-" + name });
    input.oninput = () => changed(Number(input.value));
    make(this.sliders, "label", {}, make(null, "span", {}, name), input);
  }

  tool(name, action) {
    const button = make(this.tools, "button", { type: "button", id: "tool-" + name.toLowerCase().replaceAll(" ", "-") }, name);
    button.onclick = action;
    return button;
  }
}
