"""Scores of label maps, pseudo labels and boxes."""
