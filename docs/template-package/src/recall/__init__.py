"""Imported on every start of metta-train, to find conf/: keep it light."""
