// A worker: rows from far to near along the view, by counting on 16 bits of depth. Rows behind the camera are left out.

let means, n, counts = new Uint32Array(65537), keys;

onmessage = ({ data }) => {
  if (data.means) {
    means = data.means;
    n = means.length / 3;
    keys = new Uint16Array(n);
    return;
  }
  const [x, y, z, w] = data.forward, near = data.near;
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < n; i++) {
    const depth = means[3 * i] * x + means[3 * i + 1] * y + means[3 * i + 2] * z + w;
    if (depth <= near) continue;
    if (depth < low) low = depth;
    if (depth > high) high = depth;
  }
  // Even steps of the logarithm: what is near is sorted more finely.
  const factor = high > low ? 65534 / Math.log(high / low) : 0, start = Math.log(low);
  counts.fill(0);
  let kept = 0;
  for (let i = 0; i < n; i++) {
    const depth = means[3 * i] * x + means[3 * i + 1] * y + means[3 * i + 2] * z + w;
    if (depth <= near) { keys[i] = 65535; continue; }
    const key = 65534 - (((Math.log(depth) - start) * factor) | 0);
    keys[i] = key;
    counts[key + 1]++;
    kept++;
  }
  for (let k = 1; k < counts.length; k++) counts[k] += counts[k - 1];
  const order = new Uint32Array(kept);
  for (let i = 0; i < n; i++) if (keys[i] != 65535) order[counts[keys[i]]++] = i;
  postMessage({ order, number: data.number }, [order.buffer]);
};
