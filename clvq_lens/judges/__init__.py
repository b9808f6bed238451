"""Judges: language models that name codes and say what belongs to a name.

What these functions return goes to `ConceptTable.named` and to `clvq_lens.detection`, wherever a
function of yours would. `hf` is a model in this process, `openai` a server; `agreement` asks
whether several judges agree. Nothing is sent anywhere unless the judge of a server is passed.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from clvq_lens.judges.chat_server import openai as openai
    from clvq_lens.judges.judge_agreement import JudgeAgreement as JudgeAgreement
    from clvq_lens.judges.judge_agreement import agreement as agreement
    from clvq_lens.judges.language_judge import LanguageJudge as LanguageJudge
    from clvq_lens.judges.local_model import hf as hf

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "chat_server": ["openai"],
        "judge_agreement": ["JudgeAgreement", "agreement"],
        "language_judge": ["LanguageJudge"],
        "local_model": ["hf"],
    },
)
