"""Every live rule, the causes that explain others first. A page of doctor/pages/ explains each."""

from __future__ import annotations

from concordant.doctor.rules_data import RULES_DATA
from concordant.doctor.rules_learning import RULES_LEARNING
from concordant.doctor.rules_pairs import RULES_PAIRS, RULES_REFERENCE
from concordant.doctor.rules_reward import RULES_HACKING, RULES_REWARD
from concordant.doctor.rules_sampling import RULES_POLICY, RULES_SAMPLING, RULES_WEIGHTS
from concordant.doctor.rules_settings import RULES_SETTINGS
from concordant.doctor.rules_terms import RULES_CRITIC, RULES_TERMS

RULES = (
    *RULES_DATA,
    *RULES_SAMPLING,
    *RULES_REFERENCE,
    *RULES_TERMS,
    *RULES_REWARD,
    *RULES_WEIGHTS,
    *RULES_SETTINGS,
    *RULES_LEARNING,
    *RULES_PAIRS,
    *RULES_HACKING,
    *RULES_POLICY,
    *RULES_CRITIC,
)
