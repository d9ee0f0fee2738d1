"""Formats that hold scenes and are not read: each is named, with a public tool that converts it."""

from __future__ import annotations

from pathlib import Path

from chorus_common.scene_io.bounds import fail

_SPLAT_TRANSFORM = "npx @playcanvas/splat-transform {name} OUT.ply"
_PDAL = "pdal translate {name} OUT.ply"
_CLOUDCOMPARE = "CloudCompare -SILENT -O {name} -C_EXPORT_FMT PLY -SAVE_CLOUDS"

#: suffix -> what it is, and the command (or the way) that turns it into something that is read.
_FORMATS: dict[str, tuple[str, str]] = {
    ".lcc": ("XGRIDS LCC", _SPLAT_TRANSFORM),
    ".lcc2": ("XGRIDS LCC", _SPLAT_TRANSFORM),
    ".usdz": ("OpenUSD", "open it in SuperSplat or Omniverse and export a .ply"),
    ".usd": ("OpenUSD", "open it in Omniverse and export a .ply"),
    ".usda": ("OpenUSD", "open it in Omniverse and export a .ply"),
    ".usdc": ("OpenUSD", "open it in Omniverse and export a .ply"),
    ".pt": ("a PyTorch checkpoint", "export a .ply with the program that made it (nerfstudio: ns-export)"),
    ".pth": ("a PyTorch checkpoint", "take point_cloud/iteration_*/point_cloud.ply beside it"),
    ".ckpt": ("a PyTorch checkpoint", "ns-export gaussian-splat --load-config config.yml --output-dir OUT"),
    ".safetensors": ("a checkpoint", "export a .ply with the program that trained it"),
    ".las": ("an ASPRS LAS point cloud", _PDAL),
    ".laz": ("an ASPRS LAS point cloud", _PDAL),
    ".e57": ("an ASTM E57 point cloud", _PDAL),
    ".pcd": ("a PCL point cloud", "pcl_pcd2ply {name} OUT.ply"),
    ".xyz": ("a text point cloud", _CLOUDCOMPARE),
    ".pts": ("a text point cloud", _CLOUDCOMPARE),
    ".rcp": ("Autodesk ReCap", "export an .e57 from ReCap, then pdal translate OUT.e57 OUT.ply"),
    ".rad": ("Spark RAD", "convert the file that it was made from"),
    ".drc": ("a Draco mesh", "draco_decoder -i {name} -o OUT.ply"),
    ".obj": ("a Wavefront mesh", "CloudCompare -SILENT -O {name} -SAMPLE_MESH POINTS 1000000 -SAVE_CLOUDS"),
    ".fbx": ("an FBX mesh", "sample its surface to a coloured .ply (Blender, CloudCompare)"),
    ".stl": ("an STL mesh", "it has no colours, so it cannot become a scene"),
    ".mjs": ("a splat-transform generator", _SPLAT_TRANSFORM),
    ".html": ("a web page", "export the splat itself (.ply, .sog, .spz) from the program that made it"),
}  # fmt: skip


def refuse_unread(path: Path, head: bytes) -> None:
    """Raise SceneError, naming format and converter, where `path` is of a kind that is known and not read.

    head: the first bytes of the file.
    """
    known = _FORMATS.get(path.suffix.lower())
    if known is None:
        return
    what, way = known
    way = way.format(name=path.name)
    hint = f"convert it: {way}" if " " in way and way.split()[0] in _PROGRAMS else way
    fail(path, f"is {what} ({path.suffix.lower()}), which is not read; {hint}")


#: First words of ways that are commands.
_PROGRAMS = frozenset({"npx", "pdal", "CloudCompare", "pcl_pcd2ply", "draco_decoder", "ns-export"})
