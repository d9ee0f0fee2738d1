// From the page's blocks to arrays: what evaluation/viewer/packed_splats.py and layers.py wrote.

const page = JSON.parse(document.getElementById("scene").textContent);

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function fromBase64(text) {
  const binary = atob(text.trim()), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// A block lies in the page, or the server that made the page has it.
async function block(name) {
  const inside = document.getElementById("block-" + name);
  if (inside) return inflate(fromBase64(inside.textContent));
  const answer = await fetch("block/" + name);
  if (!answer.ok) throw new Error(await answer.text());
  return inflate(new Uint8Array(await answer.arrayBuffer()));
}

// Every third bit of the lowest 24.
function everyThird(x) {
  x &= 0x249249;
  x = (x | (x >> 2)) & 0x0c30c3;
  x = (x | (x >> 4)) & 0x00f00f;
  return (x | (x >> 8)) & 0x0000ff;
}

// Planes of differences from the row before, modulo 256, made whole again where they lie.
function summed(planes, n) {
  for (let i = 0; i < planes.length; i++) if (i % n) planes[i] = planes[i] + planes[i - 1];
  return planes;
}

// Centres [N, 3], in the scene's metres.
async function readPlaces(splats) {
  const planes = await block("place"), n = splats.rows, { centre, size, low, step } = splats.place;
  const means = new Float32Array(3 * n), count = planes.length / n;
  let code = 0;
  for (let i = 0; i < n; i++) {
    for (let k = 0, weight = 1; k < count; k++, weight *= 256) code += planes[k * n + i] * weight;
    const first = code % 0x1000000, rest = Math.floor(code / 0x1000000);
    const second = rest % 0x1000000, third = Math.floor(rest / 0x1000000);
    for (let axis = 0; axis < 3; axis++) {
      const cell = everyThird(first >> axis) | (everyThird(second >> axis) << 8) | (everyThird(third >> axis) << 16);
      means[3 * i + axis] = centre[axis] + size * Math.sinh(low[axis] + cell * step);
    }
  }
  return means;
}

// {means [N, 3], geometry [12 N]: centre, covariance, opacity in three texels of four, colours [N, 3] u8}
async function readSplats(splats) {
  const n = splats.rows, levels = splats.levels;
  const [means, scale, turn, colour, opacity] = await Promise.all(
    [readPlaces(splats), block("scale"), block("turn"), block("colour"), block("opacity")]);
  summed(colour, n);
  const geometry = new Float32Array(12 * n), colours = new Uint8Array(3 * n);
  const q = [0, 0, 0, 0];
  for (let i = 0; i < n; i++) {
    const largest = turn[i];
    let length = 0;
    for (let k = 1; k < 4; k++) {
      const part = (turn[k * n + i] / (levels.turn - 1) - 0.5) * Math.SQRT2;
      q[(largest + k) % 4] = part;
      length += part * part;
    }
    q[largest] = Math.sqrt(Math.max(0, 1 - length));
    const [w, x, y, z] = q;
    const axes = [
      1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)];
    const v = [0, 1, 2].map((k) => Math.exp(2 * (splats.scale.low + splats.scale.step * scale[k * n + i])));
    const cov = (a, b) => axes[3 * a] * axes[3 * b] * v[0] + axes[3 * a + 1] * axes[3 * b + 1] * v[1] +
      axes[3 * a + 2] * axes[3 * b + 2] * v[2];
    geometry.set([means[3 * i], means[3 * i + 1], means[3 * i + 2], opacity[i] / (levels.opacity - 1),
      cov(0, 0), cov(0, 1), cov(0, 2), cov(1, 1), cov(1, 2), cov(2, 2), 0, 0], 12 * i);
    // Red and blue are kept as half their difference from green.
    const green = colour[i], to8 = 255 / (levels.colour - 1);
    const other = (k) => Math.max(0, Math.min(levels.colour - 1, green + 2 * ((colour[k * n + i] << 24) >> 24) + 0.5)) * to8;
    colours.set([other(1), green * to8, other(2)], 3 * i);
  }
  return { means, geometry, colours };
}

// Colours [N, 3] u8 of a layer from its planes; the splats' own where it has none.
function layerColours(layer, planes, own) {
  if (!layer.kind) return own;
  const n = page.splats.rows, colours = new Uint8Array(3 * n);
  if (layer.kind == "rgb") {
    summed(planes, n);
    for (let i = 0; i < n; i++) for (let k = 0; k < 3; k++) colours[3 * i + k] = (planes[k * n + i] * 255) / (layer.levels - 1);
    return colours;
  }
  const ids = layerIds(layer, planes);
  for (let i = 0; i < n; i++) colours.set(layer.palette[ids[i]], 3 * i);
  return colours;
}

// Entries [N] of the palette: one byte, or two where there are more than 256.
function layerIds(layer, planes) {
  const n = page.splats.rows;
  if (layer.palette.length <= 256) return planes;
  const ids = new Uint16Array(n);
  for (let i = 0; i < n; i++) ids[i] = planes[i] | (planes[n + i] << 8);
  return ids;
}
