"""The MettaGrid games that ship with metta-train."""
