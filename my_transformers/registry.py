"""The settings of every attention mechanism. Imports no torch. Register a new mechanism here."""

from my_transformers.full_settings import FullSettings, SharedQKSettings
from my_transformers.linear_settings import LinearSettings
from my_transformers.linformer.settings import CausalLinformerSettings, LinformerSettings
from my_transformers.local_settings import LocalSettings
from my_transformers.lsh.settings import LSHSettings, TransformersLSHSettings
from my_transformers.nystrom_settings import NystromSettings
from my_transformers.performer.settings import PerformerSettings
from my_transformers.relative.settings import ClippedRelativeSettings, RelativeSettings
from my_transformers.settings import MechanismSettings

SETTINGS: tuple[type[MechanismSettings], ...] = (
    FullSettings,
    SharedQKSettings,
    LSHSettings,
    LocalSettings,
    TransformersLSHSettings,
    PerformerSettings,
    RelativeSettings,
    ClippedRelativeSettings,
    LinformerSettings,
    CausalLinformerSettings,
    LinearSettings,
    NystromSettings,
)
"""In the order in which help texts and tables list them."""
