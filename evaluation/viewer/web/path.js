// Pictures and a film: the canvas as PNG, and a flight through the kept views (a turn about the target where fewer than
// two are kept) as WebM, recorded by the browser while it plays.

class Path {
  constructor(camera) {
    this.camera = camera;
    this.views = [];
  }

  keep() {
    this.views.push([this.camera.eye, [...this.camera.target]]);
  }

  get seconds() { return this.views.length > 1 ? 2.5 * (this.views.length - 1) : 8; }

  // Eye and target at a time in [0, 1]: Catmull and Rom's curve through the kept views.
  at(time) {
    const n = this.views.length;
    if (n < 2) {
      const { eye, target } = this.begun, back = plus(eye, target, -1), angle = 2 * Math.PI * time;
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      return [plus(target, [c * back[0] - s * back[1], s * back[0] + c * back[1], back[2]]), target];
    }
    const place = time * (n - 1), i = Math.min(Math.floor(place), n - 2), t = place - i;
    const view = (k) => this.views[Math.max(0, Math.min(n - 1, k))];
    return [0, 1].map((part) => [0, 1, 2].map((axis) => {
      const [a, b, c, d] = [-1, 0, 1, 2].map((k) => view(i + k)[part][axis]);
      return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
    }));
  }

  // Move the camera along the path; resolves at its end.
  play(seconds = this.seconds) {
    this.begun = { eye: this.camera.eye, target: [...this.camera.target] };
    const start = performance.now();
    return new Promise((done) => {
      const step = () => {
        const time = Math.min(1, (performance.now() - start) / 1000 / seconds);
        this.camera.place(...this.at(time));
        this.camera.changed();
        if (time < 1) requestAnimationFrame(step);
        else done();
      };
      step();
    });
  }

  async record(canvas, seconds = this.seconds) {
    const kind = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"].find((k) => MediaRecorder.isTypeSupported(k));
    const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: kind, videoBitsPerSecond: 12e6 }), parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    const stopped = new Promise((done) => { recorder.onstop = done; });
    recorder.start();
    await this.play(seconds);
    recorder.stop();
    await stopped;
    return new Blob(parts, { type: "video/webm" });
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
