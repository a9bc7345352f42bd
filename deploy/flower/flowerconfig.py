"""Read by Flower itself (`--conf`): its log lines have the form of all others, and tasks are shown by `format_task`."""

from deploy.flower.settings import FlowerSettings
from deploy.flower.shown_task import format_task
from shared.logs import configure
from shared.settings import load

__all__ = ["format_task"]

_settings = load(FlowerSettings)
configure(_settings.log_level, _settings.log_format)
