"""What the client learns of the teachers without building one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.plan import teacher_facts
from stage1_render_teachers.settings import RunConfig, Stage1Config


def test_a_client_of_workers_builds_no_teacher_itself(tmp_path: Path) -> None:
    """It would hold the teachers' weights and libraries for as long as the run takes."""
    config = Stage1Config(teachers=("embedded:text", "embedded:masks"))
    code = (
        "import sys\n"
        "from stage1_render_teachers.plan import teacher_facts\n"
        "from stage1_render_teachers.settings import RunConfig, Stage1Config\n"
        f"facts = teacher_facts(Stage1Config(teachers={config.teachers!r}), RunConfig(workers=2, device='cuda'))\n"
        "print([fact.fingerprint for fact in facts], 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [fact.fingerprint for fact in teacher_facts(config, RunConfig())]
    assert done.stdout == f"{here} False\n"


def test_what_is_wrong_with_a_teacher_comes_back_from_the_other_process() -> None:
    with pytest.raises(ConfigError, match="did you mean 'embedded:masks'"):
        teacher_facts(Stage1Config(teachers=("embedded:mask",)), RunConfig(workers=1))
