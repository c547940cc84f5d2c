"""Records of the journal in files, under a manifest."""
