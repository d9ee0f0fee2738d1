from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evaluation.finetuning.settings import FineTuneConfig, FineTuneOptimSettings


@given(field=st.sampled_from(["lr", "weight_decay", "clip", "ema", "encoder_lr_scale"]), value=st.floats(0.1, 0.9))
def test_one_setting_of_the_optimiser_leaves_the_others_at_fine_tunings_defaults(field: str, value: float) -> None:
    told = FineTuneConfig.model_validate({"optim": {field: value}})
    assert told.optim == FineTuneOptimSettings().model_copy(update={field: value})


def test_encoders_move_slowly_unless_told_otherwise() -> None:
    assert FineTuneConfig().optim.encoder_lr_scale < 1
