"""The viewer in a browser: viser draws the splats, `SceneModel` says in which colours."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import numpy as np

from chorus_common.runtime.errors import ChorusError, ConfigError, one_line
from evaluation.viewer.scene_model import QUERY, SceneModel


class ViewerServer:
    """Serves one scene until `stop`. Every browser that looks at it shares one state.

    Args:
        host, port: port 0 = any free one. Bound to this machine unless told otherwise: nothing asks for a password.

    Raises ConfigError where viser is not installed or the port is taken.
    """

    def __init__(self, model: SceneModel, *, host: str = "127.0.0.1", port: int = 8080) -> None:
        viser = _viser()
        self.model = model
        try:
            self._server: Any = viser.ViserServer(host, port, label=f"Chorus: {model.scene.name}", verbose=False)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from None
        self._lock = threading.Lock()  # two events at once must not mix their colours
        gaussians = model.scene.gaussians
        self._server.scene.set_up_direction("+z")
        position, target = model.start()
        self._server.initial_camera.position = tuple(position)
        self._server.initial_camera.look_at = tuple(target)
        shown = model.show(model.modes[0])
        self._splats: Any = self._server.scene.add_gaussian_splats(
            "/scene", gaussians.means, model.covariances(), shown.colors, gaussians.opacities[:, None]
        )
        self._server.gui.add_markdown(f"**{model.scene.name}**: {len(gaussians):,} Gaussians")
        self.mode: Any = self._server.gui.add_dropdown("Show", model.modes, initial_value=model.modes[0])
        self.query: Any = self._server.gui.add_text("Query", "", visible=QUERY in model.modes)
        self.legend: Any = self._server.gui.add_markdown(shown.legend)
        self.mode.on_update(lambda _: self.refresh())
        self.query.on_update(lambda _: self._asked())

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    def refresh(self) -> None:
        """Bring colours and legend up to date with the mode and query of the panel; what cannot be answered is said in
        the legend.
        """
        with self._lock:
            try:
                shown = self.model.show(self.mode.value, self.query.value)
            except ChorusError as error:
                self.legend.content = f"Not answered: {one_line(error)}"
                return
            self._splats.rgbs = np.clip(np.rint(shown.colors * 255), 0, 255).astype(np.uint8)
            self.legend.content = shown.legend

    def serve(self) -> None:
        """Wait until interrupted."""
        self._server.sleep_forever()

    def stop(self) -> None:
        self._server.stop()

    def _asked(self) -> None:
        """A typed query is also a wish to see its answer."""
        if self.mode.value != QUERY and self.query.value.strip():
            self.mode.value = QUERY
        self.refresh()


def _viser() -> ModuleType:
    try:
        import viser
    except ImportError:
        raise ConfigError("the viewer needs viser; install it with: pip install 'chorus3d[view]'") from None
    return viser
