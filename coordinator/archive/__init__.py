"""Records of the journal in files, listed in a manifest."""
