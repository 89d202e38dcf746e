"""Many runs as one experiment: the jobs of `metta-train -m`, the trials of `metta-sweep`, and what they add up to."""
