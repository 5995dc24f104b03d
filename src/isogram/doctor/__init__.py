"""The doctor: can these silos be aligned on these anchors? Said before anything is trained, from public anchors alone.

Of private rows it reads which classes a node labels, which columns never change, and how many values lie far from the
anchors; of held-out rows nothing. What is tested, why, and how often it is right: docs/doctor.md.
"""

from isogram.doctor.diagnosis import LEVELS, Coverage, Diagnosis, Finding, Group, PairTest, Suspect
from isogram.doctor.examine import examine

__all__ = ["LEVELS", "Coverage", "Diagnosis", "Finding", "Group", "PairTest", "Suspect", "examine"]
