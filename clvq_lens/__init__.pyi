from . import toy as toy
from .concepts.encoding import Encoding as Encoding
from .concepts.table import Concept as Concept
from .concepts.table import ConceptTable as ConceptTable
from .config import CLVQConfig as CLVQConfig
from .config import FitConfig as FitConfig
from .evaluation.report import Report as Report
from .interventions.edits import Ablate as Ablate
from .interventions.edits import Force as Force
from .interventions.edits import Patch as Patch
from .interventions.edits import Restrict as Restrict
from .interventions.edits import Steer as Steer
from .interventions.edits import Swap as Swap
from .lens import Lens as Lens
from .lens import add_clvq as add_clvq
from .lens import clvqs as clvqs
from .quantizer.cross_layer import CrossLayerQuantizer as CrossLayerQuantizer
from .quantizer.files import load as load
from .training.history import History as History

__version__: str
