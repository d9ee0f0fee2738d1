"""Where people can stand in a scene, and from where it is best looked at."""

from chorus_common.viewpoints.start import GoodView, good_view
from chorus_common.viewpoints.survey import Survey, survey_scene

__all__ = ["GoodView", "Survey", "good_view", "survey_scene"]
