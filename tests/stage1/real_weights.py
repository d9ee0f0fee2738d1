"""Skip what needs the real networks of `make real-teachers` where they are not on this machine."""

from __future__ import annotations

import pytest

from chorus_common.runtime.packaged_weights import missing_files

needs_real_teachers = pytest.mark.skipif(
    bool(missing_files()), reason="the real networks are not on this machine (make real-teachers)"
)
