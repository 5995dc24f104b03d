"""Folders and tables of your own, of any modality: found, checked, encoded and split."""
