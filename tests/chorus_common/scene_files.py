"""Plain writers of every scene format, from the formats' descriptions and for tests alone: row by row, nothing shared
with the readers."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa

from chorus_common.scene import GaussianScene, canonical_quats

SH_C0 = 0.28209479177387814


def random_scene(n: int, seed: int = 0) -> GaussianScene:
    """A scene whose every value lies well inside the range of every format."""
    rng = np.random.default_rng(seed)
    return GaussianScene(
        means=rng.uniform(-3, 3, (n, 3)).astype(np.float32),
        quats=canonical_quats(rng.normal(size=(n, 4))),
        scales=np.exp(rng.uniform(-6, -1, (n, 3))).astype(np.float32),
        opacities=rng.uniform(0.05, 0.95, n).astype(np.float32),
        colors=rng.uniform(0.05, 0.95, (n, 3)).astype(np.float32),
    )


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def inria_rows(scene: GaussianScene) -> list[dict[str, float]]:
    """One dict of named values per Gaussian, as a training run stores them."""
    rows = []
    for i in range(len(scene)):
        row = {name: float(scene.means[i, a]) for a, name in enumerate("xyz")}
        row |= {f"f_dc_{a}": (float(scene.colors[i, a]) - 0.5) / SH_C0 for a in range(3)}
        row["opacity"] = logit(float(scene.opacities[i]))
        row |= {f"scale_{a}": math.log(float(scene.scales[i, a])) for a in range(3)}
        row |= {f"rot_{a}": 1.7 * float(scene.quats[i, a]) for a in range(4)}  # training does not keep them unit
        rows.append(row)
    return rows


def write_ply(
    path: Path,
    elements: list[tuple[str, dict[str, str], list[list[float]]]],
    *,
    order: str = "<",
    newline: str = "\n",
    comments: tuple[str, ...] = (),
) -> Path:
    """Elements (name, property -> PLY type, rows); `order` "<", ">" or "a" for ascii."""
    codes = {
        "float": "f",
        "double": "d",
        "uchar": "B",
        "ushort": "H",
        "int": "i",
        "uint": "I",
        "char": "b",
        "short": "h",
    }
    kind = {"<": "binary_little_endian", ">": "binary_big_endian", "a": "ascii"}[order]
    lines = ["ply", f"format {kind} 1.0", *(f"comment {c}" for c in comments)]
    body = b""
    for name, properties, rows in elements:
        lines.append(f"element {name} {len(rows)}")
        lines += [f"property {t} {p}" for p, t in properties.items()]
        for row in rows:
            if order == "a":
                body += (" ".join(repr(v) for v in row) + newline).encode()
            else:
                body += struct.pack(order + "".join(codes[t] for t in properties.values()), *row)
    path.write_bytes((newline.join([*lines, "end_header"]) + newline).encode() + body)
    return path


def write_inria(path: Path, scene: GaussianScene, *, n_rest: int = 0, normals: bool = False, **options: object) -> Path:
    rows = inria_rows(scene)
    names = ["x", "y", "z"] + (["nx", "ny", "nz"] if normals else []) + [f"f_dc_{a}" for a in range(3)]
    names += [f"f_rest_{a}" for a in range(n_rest)] + ["opacity"] + [f"scale_{a}" for a in range(3)]
    names += [f"rot_{a}" for a in range(4)]
    table = [[row.get(name, 0.0 if name[0] == "n" else 0.25) for name in names] for row in rows]
    return write_ply(path, [("vertex", dict.fromkeys(names, "float"), table)], **options)  # type: ignore[arg-type]


def unorm(value: float, bits: int) -> int:
    top = (1 << bits) - 1
    return max(0, min(top, math.floor(value * top + 0.5)))


def write_compressed(
    path: Path, scene: GaussianScene, *, color_ranges: bool, sh: bool = False, comments: tuple[str, ...] = ()
) -> Path:
    """PlayCanvas compressed PLY, chunks of 256."""
    chunks, rows = [], []
    for start in range(0, len(scene), 256):
        part = slice(start, start + 256)
        p, s, c = scene.means[part], np.log(scene.scales[part]), scene.colors[part]
        ranges = [*p.min(0), *p.max(0), *s.min(0), *s.max(0)] + ([*c.min(0), *c.max(0)] if color_ranges else [])
        chunks.append([float(v) for v in ranges])
        for i in range(len(p)):
            t = (p[i] - p.min(0)) / np.maximum(p.max(0) - p.min(0), 1e-9)
            u = (s[i] - s.min(0)) / np.maximum(s.max(0) - s.min(0), 1e-9)
            v = (c[i] - c.min(0)) / np.maximum(c.max(0) - c.min(0), 1e-9) if color_ranges else c[i]
            q = scene.quats[start + i].astype(float)
            big = int(np.argmax(np.abs(q)))
            q = q * np.sign(q[big])
            packed_q = big
            for k in (k for k in range(4) if k != big):
                packed_q = (packed_q << 10) | unorm(q[k] / math.sqrt(2) + 0.5, 10)
            rows.append(
                [
                    (unorm(t[0], 11) << 21) | (unorm(t[1], 10) << 11) | unorm(t[2], 11),
                    packed_q,
                    (unorm(u[0], 11) << 21) | (unorm(u[1], 10) << 11) | unorm(u[2], 11),
                    (unorm(v[0], 8) << 24) | (unorm(v[1], 8) << 16) | (unorm(v[2], 8) << 8)
                    | unorm(float(scene.opacities[start + i]), 8),
                ]
            )  # fmt: skip
    ends = [f"{end}_{a}" for end in ("min", "max") for a in "xyz"]
    ends += [f"{end}_scale_{a}" for end in ("min", "max") for a in "xyz"]
    ends += [f"{end}_{a}" for end in ("min", "max") for a in "rgb"] if color_ranges else []
    packed = dict.fromkeys(("packed_position", "packed_rotation", "packed_scale", "packed_color"), "uint")
    elements: list[tuple[str, dict[str, str], list[list[float]]]] = [
        ("chunk", dict.fromkeys(ends, "float"), chunks),
        ("vertex", packed, rows),
    ]
    if sh:
        elements.append(("sh", {f"f_rest_{i}": "uchar" for i in range(9)}, [[128] * 9 for _ in range(len(scene))]))
    return write_ply(path, elements, comments=("Generated by a test", *comments))


def write_splat(path: Path, scene: GaussianScene) -> Path:
    out = b""
    for i in range(len(scene)):
        out += struct.pack("<6f", *scene.means[i], *scene.scales[i])
        out += bytes(round(255 * float(v)) for v in (*scene.colors[i], scene.opacities[i]))
        out += bytes(min(255, round(128 * float(v) + 128)) for v in scene.quats[i])
    path.write_bytes(out)
    return path


def spz_harmonics(n: int, degree: int, seed: int | None) -> np.ndarray:
    """Stored harmonics [n, K, 3] u8; 128, which is nothing, without a seed."""
    shape = (n, {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}[degree], 3)
    if seed is None:
        return np.full(shape, 128, np.uint8)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def spz_streams(scene: GaussianScene, version: int, degree: int = 0, sh_seed: int | None = None) -> list[bytes]:
    """The attribute streams of an .spz (RUB axes: y and z of a .ply's RDF axes change sign)."""
    positions = alphas = colors = scales = rotations = b""
    for i in range(len(scene)):
        x, y, z = (float(v) for v in scene.means[i])
        for value in (x, -y, -z):
            if version == 1:
                positions += struct.pack("<e", value)
            else:
                positions += round(value * 4096).to_bytes(3, "little", signed=True)
        alphas += bytes([round(255 * float(scene.opacities[i]))])
        colors += bytes(round(255 * ((float(c) - 0.5) / SH_C0 * 0.15 + 0.5)) for c in scene.colors[i])
        scales += bytes(round((math.log(float(s)) + 10) * 16) for s in scene.scales[i])
        w, qx, qy, qz = (float(v) for v in scene.quats[i])
        q = [qx, -qy, -qz, w]
        if version < 3:
            q = [-v for v in q] if q[3] < 0 else q
            rotations += bytes(round(127.5 * v + 127.5) for v in q[:3])
        else:
            big = max(range(4), key=lambda k: abs(q[k]))
            packed = big
            for k in range(4):
                if k != big:
                    negative = (q[k] < 0) != (q[big] < 0)
                    packed = (packed << 10) | (negative << 9) | round(511 * abs(q[k]) * math.sqrt(2))
            rotations += packed.to_bytes(4, "little")
    return [positions, alphas, colors, scales, rotations, spz_harmonics(len(scene), degree, sh_seed).tobytes()]


def write_spz(
    path: Path,
    scene: GaussianScene,
    version: int,
    *,
    degree: int = 0,
    extension: bytes = b"",
    flags: int = 0,
    sh_seed: int | None = None,
) -> Path:
    streams = spz_streams(scene, version, degree, sh_seed)
    n = len(scene)
    flags |= 2 if extension else 0
    if version < 4:
        header = struct.pack("<IIIBBBB", 0x5053474E, version, n, degree, 12, flags, 0)
        path.write_bytes(gzip.compress(header + b"".join(streams) + extension, mtime=0))
        return path
    plain = [stream for stream in streams if stream]
    packed = [pa.compress(stream, codec="zstd", asbytes=True) for stream in plain]
    header = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, n, degree, 12, flags, len(plain), 32 + len(extension))
    toc = b"".join(struct.pack("<QQ", len(a), len(b)) for a, b in zip(packed, plain))
    path.write_bytes(header + extension + toc + b"".join(packed))
    return path
