"""The numbers of the rendering rule, once for every rasteriser of the product.

The rule is that of gsplat 1.5.3 with a pinhole camera (ProjectionEWA3DGSFused.cu, Utils.cuh,
RasterizeToPixels3DGSFwd.cu, RasterizeToIndices3DGS.cu):

1. A Gaussian is left out when it lies before `NEAR_PLANE` or beyond `FAR_PLANE`, when its opacity is below `MIN_ALPHA`,
   or when its box misses the picture.
2. Its covariance is projected with the Jacobian at its centre, which is clamped to `FIELD_MARGIN` of the picture's size
   beyond each border. `LowPass.eps2d` is added to both variances, which makes thin Gaussians too bright. A scene that
   was trained antialiased has its opacities multiplied by sqrt(det before / det after) on the screen to make up for it;
   from then on that product is the opacity (gsplat's rasterize_mode="antialiased"; Mip-Splatting, Yu et al. 2024, eq.
   10). `low_pass` says which scenes.
3. At a pixel's centre alpha = min(`MAX_ALPHA`, opacity * exp(-sigma)). Below `MIN_ALPHA` it does not count.
4. Gaussians are blended front to back, ties in depth by index: weight = alpha * T. A pixel stops, without the Gaussian
   in question, when its transmittance T would fall to `MIN_TRANSMITTANCE` or below.

The same rule in forty lines of plain float64 stands in tests/chorus_common/rasterize/reference_rasterizer.py. Start
there to understand it; every fast path is compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, RenderMode

#: Low-pass filter of 3DGS: px^2 added to both variances on the screen, so that nothing is thinner than a pixel.
EPS2D = 0.3
#: The same in Mip-Splatting, whose pixels are a box of one pixel and not a Gaussian of more.
MIP_EPS2D = 0.1
#: Depths in metres between which Gaussians are drawn.
NEAR_PLANE = 0.01
FAR_PLANE = 1e10
#: Share of the picture's width (height) beyond each border to which the Jacobian's point is clamped: 0.15 on both sides
#: makes 1.3 times the field of view.
FIELD_MARGIN = 0.15
#: Alpha below which a Gaussian does not count, and the most that one Gaussian may cover.
MIN_ALPHA = 1.0 / 255.0
MAX_ALPHA = 0.999
#: Transmittance at which a pixel stops.
MIN_TRANSMITTANCE = 1e-4
#: Most standard deviations that a Gaussian's box reaches; fainter ones end where alpha falls to `MIN_ALPHA`.
MAX_EXTENT = 3.33


@dataclass(frozen=True)
class LowPass:
    """What is added to a Gaussian on the screen: `eps2d` px^2 to both variances; `compensated`: opacities make up for
    it.
    """

    eps2d: float
    compensated: bool


_LOW_PASS = {
    RenderMode.CLASSIC: LowPass(EPS2D, compensated=False),
    RenderMode.ANTIALIASED: LowPass(EPS2D, compensated=True),
    RenderMode.MIP: LowPass(MIP_EPS2D, compensated=True),
}


def low_pass(scene: GaussianScene) -> LowPass:
    """The filter that `scene` was trained with. Raises SceneError for 2DGS's discs, which have another projection."""
    if scene.render_mode not in _LOW_PASS:
        raise SceneError(
            f"scene {scene.name or '?'}: was trained as flat discs ({scene.render_mode.value}), which the rasterisers "
            "do not draw; train it as 3D Gaussians, or leave the scene out"
        )
    return _LOW_PASS[scene.render_mode]
