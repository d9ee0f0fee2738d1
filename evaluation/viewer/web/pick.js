// The row that a click meets: the first from the front with which half of the light is gone; -1 where there is none.

function pick(data, look, picture, x, y, rgba, settings, eps2d) {
  const { means, geometry } = data, v = look.view, f = look.focal, n = means.length / 3, hits = [];
  const px = x - picture.width / 2, py = y - picture.height / 2;
  for (let i = 0; i < n; i++) {
    if (!rgba[4 * i + 3]) continue;
    const a = means[3 * i], b = means[3 * i + 1], c = means[3 * i + 2];
    const tz = v[2] * a + v[6] * b + v[10] * c + v[14];
    if (tz <= NEAR) continue;
    const tx = v[0] * a + v[4] * b + v[8] * c + v[12], ty = v[1] * a + v[5] * b + v[9] * c + v[13];
    const dx = px - (f * tx) / tz, dy = py - (f * ty) / tz, at = 12 * i, s = settings.scale * settings.scale;
    const trace = s * (geometry[at + 4] + geometry[at + 7] + geometry[at + 9]);
    const reach = 3.33 * ((2 * f * Math.sqrt(trace)) / tz + 1);
    if (dx * dx + dy * dy > reach * reach) continue;
    const row = (p, sx, sy) => [0, 1, 2].map((k) => (f / tz) * (sx * v[4 * k] + sy * v[4 * k + 1] - p * v[4 * k + 2]));
    const jx = row(tx / tz, 1, 0), jy = row(ty / tz, 0, 1), g = geometry.subarray(at + 4, at + 10);
    const form = (p, q) => s * (g[0] * p[0] * q[0] + g[3] * p[1] * q[1] + g[5] * p[2] * q[2] +
      g[1] * (p[0] * q[1] + p[1] * q[0]) + g[2] * (p[0] * q[2] + p[2] * q[0]) + g[4] * (p[1] * q[2] + p[2] * q[1]));
    const xx = form(jx, jx) + eps2d, xy = form(jx, jy), yy = form(jy, jy) + eps2d, det = xx * yy - xy * xy;
    const distance = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / det;
    const alpha = Math.min(0.999, geometry[at + 3] * settings.opacity) * Math.exp(-0.5 * distance);
    if (alpha > 1 / 255) hits.push([tz, alpha, i]);
  }
  hits.sort((p, q) => p[0] - q[0]);
  let light = 1, best = -1, most = 0;
  for (const [, alpha, i] of hits) {
    if (light * alpha > most) [best, most] = [i, light * alpha];
    light *= 1 - alpha;
    if (light < 0.5) break;
  }
  return best;
}
