"""Checks of the notebooks' tasks, a module for each notebook: what is wrong with an answer, in a sentence.

A check gets the student's answer and what it needs of the notebook, returns nothing for a right answer, and raises
``AssertionError`` with the misconception behind a wrong one, or ``NotImplementedError`` for an open task.
"""
