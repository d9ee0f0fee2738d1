"""GAGS fields: a granularity-aware language field of one scene, trained from its teacher cache (docs/guide/gags.md)."""

from stage2_distill.fields.query import FieldView
from stage2_distill.fields.recipe import FieldRun, train_field
from stage2_distill.fields.saved import SavedField, load_field, save_field
from stage2_distill.fields.settings import FieldConfig

__all__ = ["FieldConfig", "FieldRun", "FieldView", "SavedField", "load_field", "save_field", "train_field"]
