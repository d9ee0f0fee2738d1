// A camera that looks at a target, z up: turned, moved and dollied with mouse, fingers and keys.

const FIELD = (60 * Math.PI) / 180; // of the picture's shorter side
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const plus = (a, b, t = 1) => [a[0] + t * b[0], a[1] + t * b[1], a[2] + t * b[2]];
const unit = (a) => a.map((x) => x / (Math.hypot(...a) || 1));

class Camera {
  constructor(start, changed) {
    this.changed = changed;
    this.place(start.eye, start.target);
  }

  place(eye, target) {
    const back = plus(eye, target, -1);
    this.target = [...target];
    this.distance = Math.max(Math.hypot(...back), 1e-3);
    this.yaw = Math.atan2(back[1], back[0]);
    this.pitch = Math.asin(Math.max(-1, Math.min(1, back[2] / this.distance)));
  }

  get eye() {
    const flat = Math.cos(this.pitch);
    return plus(this.target, [flat * Math.cos(this.yaw), flat * Math.sin(this.yaw), Math.sin(this.pitch)], this.distance);
  }

  // Right, down, forward: the rows of the rotation, as in chorus_common.cameras.look_at.
  get axes() {
    const forward = unit(plus(this.target, this.eye, -1)), right = [-Math.sin(this.yaw), Math.cos(this.yaw), 0];
    return [right, cross(forward, right), forward];
  }

  look(width, height) {
    const axes = this.axes, eye = this.eye, view = new Float32Array(16);
    axes.forEach((axis, row) => {
      for (let k = 0; k < 3; k++) view[4 * k + row] = axis[k];
      view[12 + row] = -dot(axis, eye);
    });
    view[15] = 1;
    return { view, focal: Math.min(width, height) / 2 / Math.tan(FIELD / 2) };
  }

  orbit(dx, dy) {
    this.yaw -= dx;
    this.pitch = Math.max(-1.55, Math.min(1.55, this.pitch + dy));
    this.changed();
  }

  // Turn the head: the eye stays, the target moves.
  turn(dx, dy) {
    const eye = this.eye;
    this.yaw -= dx;
    this.pitch = Math.max(-1.55, Math.min(1.55, this.pitch + dy));
    this.target = plus(this.target, plus(eye, this.eye, -1));
    this.changed();
  }

  move(right, down, forward) {
    this.axes.forEach((axis, k) => { this.target = plus(this.target, axis, [right, down, forward][k]); });
    this.changed();
  }

  dolly(factor) {
    this.distance = Math.max(1e-3, this.distance * factor);
    this.changed();
  }

  listen(canvas, clicked) {
    const fingers = new Map();
    let travelled = 0, spread = 0;
    canvas.oncontextmenu = (event) => event.preventDefault();
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus();
      if (!fingers.size) travelled = 0;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      spread = 0;
    };
    canvas.onpointermove = (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const dx = event.clientX - before[0], dy = event.clientY - before[1], pixel = (2 * this.distance) / canvas.clientHeight;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      travelled += Math.abs(dx) + Math.abs(dy);
      if (fingers.size == 2) {
        const [a, b] = [...fingers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (spread) this.dolly(spread / now);
        spread = now;
        this.move((-dx * pixel) / 2, (-dy * pixel) / 2, 0);
      } else if (event.shiftKey || event.buttons & 4) this.move(-dx * pixel, -dy * pixel, 0);
      else if (event.buttons & 2) this.turn(dx * 0.004, dy * 0.004);
      else this.orbit(dx * 0.006, dy * 0.006);
    };
    canvas.onpointerup = canvas.onpointercancel = (event) => {
      if (fingers.delete(event.pointerId) && travelled < 4 && event.button == 0) clicked(event);
    };
    canvas.onwheel = (event) => {
      event.preventDefault();
      this.dolly(Math.exp(event.deltaY * 0.001));
    };
    canvas.onkeydown = (event) => {
      const step = this.distance * 0.06;
      const moves = { w: [0, 0, step], s: [0, 0, -step], a: [-step, 0, 0], d: [step, 0, 0], q: [0, step, 0], e: [0, -step, 0] };
      const move = moves[event.key.toLowerCase()];
      if (move && !event.ctrlKey && !event.metaKey) this.move(...move);
    };
  }
}
