"""Parts for TVM's own tuner, `meta_schedule.tune_tir` and its kin, in the place of its stock parts.

See docs/metaschedule.md. Unlike the rest of the package this imports TVM.
"""

from ofa_compile.compiler.tvm_api import limit_intrinsics
from ofa_compile.tuning.metaschedule.builder import WarmBuilder
from ofa_compile.tuning.metaschedule.database import fingerprint_database
from ofa_compile.tuning.metaschedule.runner import IsolatedRunner

__all__ = ["IsolatedRunner", "WarmBuilder", "fingerprint_database", "limit_intrinsics"]
