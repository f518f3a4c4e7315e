"""Machine code of sm_61, executed by numpy over a whole grid."""
