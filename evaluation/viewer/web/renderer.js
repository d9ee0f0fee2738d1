// Splats and lines in WebGL 2, by the rule of chorus_common/rasterize/rules.py: projected covariance, a low-pass filter
// of eps2d square pixels, opacities made up for it where the scene asks for that. One quad per splat, far to near.

const NEAR = 0.01, TEXELS = 2046; // three texels per row, so many in a line of the texture

const SPLAT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D geometry;
uniform lowp sampler2D colours;
uniform mat4 view;
uniform vec2 focal, picture;
uniform float splatScale, opacityScale, eps2d;
uniform bool compensated;
in vec2 corner;
in uint row;
out vec4 colour;
out vec2 place;
void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  ivec2 at = ivec2(int(row % ${TEXELS / 3}u) * 3, int(row / ${TEXELS / 3}u));
  vec4 a = texelFetch(geometry, at, 0), b = texelFetch(geometry, at + ivec2(1, 0), 0), c = texelFetch(geometry, at + ivec2(2, 0), 0);
  vec4 shown = texelFetch(colours, ivec2(int(row % 2048u), int(row / 2048u)), 0);
  vec3 t = (view * vec4(a.xyz, 1.0)).xyz;
  if (t.z <= ${NEAR} || shown.a == 0.0) return;
  mat3 sigma = splatScale * splatScale * mat3(b.x, b.y, b.z, b.y, b.w, c.x, b.z, c.x, c.y);
  vec2 limit = 0.65 * picture / focal;
  vec2 slope = clamp(t.xy / t.z, -limit, limit);
  mat3 W = mat3(view);
  vec3 jx = transpose(W) * (focal.x / t.z * vec3(1.0, 0.0, -slope.x));
  vec3 jy = transpose(W) * (focal.y / t.z * vec3(0.0, 1.0, -slope.y));
  float xx = dot(jx, sigma * jx), xy = dot(jx, sigma * jy), yy = dot(jy, sigma * jy);
  float before = max(xx * yy - xy * xy, 0.0);
  xx += eps2d;
  yy += eps2d;
  float opacity = min(a.w * opacityScale, 0.999);
  if (compensated) opacity *= sqrt(before / (xx * yy - xy * xy));
  if (opacity < 1.0 / 255.0) return;
  float middle = 0.5 * (xx + yy), off = length(vec2(0.5 * (xx - yy), xy));
  float major = middle + off, minor = max(middle - off, 1e-4);
  vec2 along = abs(xy) > 1e-9 ? normalize(vec2(xy, major - xx)) : (xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
  float reach = min(3.33, sqrt(2.0 * log(255.0 * opacity)));
  place = corner * reach;
  vec2 pixel = along * place.x * sqrt(major) + vec2(-along.y, along.x) * place.y * sqrt(minor);
  vec2 centre = focal * t.xy / t.z;
  if (any(greaterThan(abs(centre) - reach * sqrt(major), 0.5 * picture))) return;
  colour = vec4(shown.rgb, opacity);
  gl_Position = vec4((centre + pixel) * vec2(2.0, -2.0) / picture, 0.0, 1.0);
}`;

const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec4 colour;
in vec2 place;
out vec4 pixel;
void main() {
  float alpha = colour.a * exp(-0.5 * dot(place, place));
  if (alpha < 1.0 / 255.0) discard;
  pixel = vec4(colour.rgb * alpha, alpha);
}`;

const LINE_VERTEX = `#version 300 es
uniform mat4 view;
uniform vec2 focal, picture;
in vec3 point;
in vec3 tint;
out vec3 colour;
void main() {
  vec3 t = (view * vec4(point, 1.0)).xyz;
  colour = tint;
  gl_Position = vec4(focal * t.xy * vec2(2.0, -2.0) / picture, 0.0, t.z);
}`;

const LINE_FRAGMENT = `#version 300 es
precision highp float;
in vec3 colour;
out vec4 pixel;
void main() { pixel = vec4(colour, 1.0); }`;

class Renderer {
  constructor(canvas, splats, data, sorterSource) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL 2");
    Object.assign(this, { canvas, gl, splats, means: data.means, rows: splats.rows, drawn: 0, sorted: 0, asked: 0 });
    this.splatProgram = program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.lineProgram = program(gl, LINE_VERTEX, LINE_FRAGMENT);
    const lines = Math.ceil((3 * this.rows) / TEXELS), padded = new Float32Array(lines * TEXELS * 4);
    padded.set(data.geometry);
    this.geometry = texture(gl);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, TEXELS, lines, 0, gl.RGBA, gl.FLOAT, padded);
    this.colours = texture(gl);
    this.splatArray = gl.createVertexArray();
    gl.bindVertexArray(this.splatArray);
    attribute(gl, this.splatProgram, "corner", 2, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]));
    this.order = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    const row = gl.getAttribLocation(this.splatProgram, "row");
    gl.enableVertexAttribArray(row);
    gl.vertexAttribIPointer(row, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(row, 1);
    this.lineArray = gl.createVertexArray();
    this.lineCount = 0;
    this.worker = new Worker(URL.createObjectURL(new Blob([sorterSource], { type: "text/javascript" })));
    this.worker.onmessage = ({ data }) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
      gl.bufferData(gl.ARRAY_BUFFER, data.order, gl.DYNAMIC_DRAW);
      this.drawn = data.order.length;
      this.sorted = data.number;
      this.busy = false;
      this.changed();
    };
    this.worker.postMessage({ means: data.means });
  }

  // rgba [N, 4] u8; alpha 0 hides a row.
  setColours(rgba) {
    const gl = this.gl, lines = Math.ceil(this.rows / 2048), padded = new Uint8Array(lines * 2048 * 4);
    padded.set(rgba);
    gl.bindTexture(gl.TEXTURE_2D, this.colours);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 2048, lines, 0, gl.RGBA, gl.UNSIGNED_BYTE, padded);
  }

  // points [P, 3] and tints [P, 3], two points a line.
  setLines(points, tints) {
    const gl = this.gl;
    gl.bindVertexArray(this.lineArray);
    attribute(gl, this.lineProgram, "point", 3, new Float32Array(points));
    attribute(gl, this.lineProgram, "tint", 3, new Float32Array(tints));
    this.lineCount = points.length / 3;
  }

  // Draw, and ask for a new order where the camera moved. look: {view: 16 numbers in columns, focal}
  draw(look, settings) {
    const gl = this.gl, { width, height } = this.canvas, v = look.view;
    const forward = [v[2], v[6], v[10], v[14]];
    if (String(forward) != this.forward && !this.busy) {
      this.forward = String(forward);
      this.busy = true;
      this.worker.postMessage({ forward, near: NEAR, number: ++this.asked });
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(...settings.background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const p = this.splatProgram, at = (name) => gl.getUniformLocation(p, name);
    gl.useProgram(p);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.geometry);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.colours);
    gl.uniform1i(at("geometry"), 0);
    gl.uniform1i(at("colours"), 1);
    gl.uniform1f(at("splatScale"), settings.scale);
    gl.uniform1f(at("opacityScale"), settings.opacity);
    gl.uniform1f(at("eps2d"), this.splats.eps2d);
    gl.uniform1i(at("compensated"), this.splats.compensated ? 1 : 0);
    this.camera(p, look);
    gl.bindVertexArray(this.splatArray);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.drawn);
    if (this.lineCount && settings.boxes) {
      gl.useProgram(this.lineProgram);
      this.camera(this.lineProgram, look);
      gl.bindVertexArray(this.lineArray);
      gl.drawArrays(gl.LINES, 0, this.lineCount);
    }
  }

  camera(p, look) {
    const gl = this.gl;
    gl.uniformMatrix4fv(gl.getUniformLocation(p, "view"), false, look.view);
    gl.uniform2f(gl.getUniformLocation(p, "focal"), look.focal, look.focal);
    gl.uniform2f(gl.getUniformLocation(p, "picture"), this.canvas.width, this.canvas.height);
  }

  // Whether the last picture was drawn in the order of its own view.
  get settled() { return !this.busy && this.asked > 0; }
}

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

function texture(gl) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, key, gl.NEAREST);
  for (const key of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, key, gl.CLAMP_TO_EDGE);
  return made;
}

function attribute(gl, p, name, width, values) {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  const at = gl.getAttribLocation(p, name);
  gl.enableVertexAttribArray(at);
  gl.vertexAttribPointer(at, width, gl.FLOAT, false, 0, 0);
}
